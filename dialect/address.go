package dialect

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Broker is where a message was received, or is sent.
type Broker struct {
	// Hosts are the names of the nodes in Config.URL and Config.Connect.URLs.
	Hosts []string
	// VirtualHost is that of the connection: "/" by default.
	VirtualHost string
}

// Has says whether a peer's address with this host and virtual host is on this broker. An empty one always is. The peer may
// know the broker by other names: also. Hosts are compared without regard to case.
func (b *Broker) Has(host, virtualHost string, also ...string) error {
	is := func(one string) bool { return strings.EqualFold(one, host) }
	if host != "" && !slices.ContainsFunc(also, is) && (b == nil || !slices.ContainsFunc(b.Hosts, is)) {
		return fmt.Errorf("the address is on the host %.80q, which is not that of the broker; if the peer calls the broker so, say it in Hosts of the dialect", host)
	}
	if virtualHost != "" && (b == nil || virtualHost != b.VirtualHost) {
		return fmt.Errorf("the address is in the virtual host %.80q, and this is another one", virtualHost)
	}
	return nil
}

// plain says whether a name needs no further look: most are of this kind.
func plain(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == '%' || c == '/' {
			return false
		}
	}
	return name != "" && name[0] != '.'
}

// ParseQueue checks that text, from the network, can be the name of a queue to answer to. Percent-encoding is decoded.
func ParseQueue(text string) (string, error) {
	const longest = 255
	if len(text) <= longest && plain(text) {
		return text, nil
	}
	name, err := url.PathUnescape(text)
	switch {
	case err != nil:
		return "", errors.New("the name of the queue is not percent-encoded correctly")
	case name == "":
		return "", errors.New("the address names no queue")
	case len(name) > longest:
		return "", fmt.Errorf("the name of the queue has %d bytes, more than %d", len(name), longest)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", errors.New("the name of the queue is not printable text")
	case name == "." || name == ".." || strings.Contains(name, "/"):
		return "", fmt.Errorf("%.80q is a path and not the name of a queue", name)
	}
	return name, nil
}

// ParseReplyTo is ParseQueue for the property reply_to, which is the name of a queue as it is. A name with percent-encoding is an error: the peer may mean
// either of two queues. What the broker calls a client that waits for direct replies is taken, too.
func ParseReplyTo(name string) (string, error) {
	if strings.HasPrefix(name, "amq.rabbitmq.reply-to.") {
		return name, nil
	}
	queue, err := ParseQueue(name)
	if err == nil && queue != name {
		err = errors.New("a name with percent-encoding is not taken")
	}
	if err != nil {
		return "", fmt.Errorf("the property reply_to %.80q: %w", name, err)
	}
	return queue, nil
}
