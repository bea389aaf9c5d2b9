package masstransit

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/harebus/harebus/dialect"
)

// direct stands in an address for the property reply_to: RabbitMQ's direct reply-to, or any queue.
const direct = "amq.rabbitmq.reply-to"

// parse is the queue of an address of MassTransit: exchange:NAME, queue:NAME or rabbitmq://host/vhost/NAME. An endpoint has a
// queue of the name of its exchange, and it is reached by the default exchange.
func (d *Dialect) parse(w *dialect.Wire, address string) (string, error) {
	if address == "" {
		return "", nil
	}
	if _, rest, ok := strings.Cut(address, "//"); ok && strings.Contains(rest, "@") { // it is not shown, because of the password
		return "", errors.New("the address has a login")
	}
	name, err := d.nameIn(w, address)
	if err == nil {
		name, err = dialect.ParseQueue(name)
	}
	if err != nil {
		return "", fmt.Errorf("the address %.120q: %w", address, err)
	}
	if name == direct {
		if w.Properties.ReplyTo == "" {
			return "", fmt.Errorf("the address %.120q stands for the property reply_to, and there is none", address)
		}
		return w.Properties.ReplyTo, nil
	}
	return name, nil
}

// shown is the name in an address that is only shown.
func shown(address string) string {
	address, _, _ = strings.Cut(address, "?")
	address = address[strings.LastIndexAny(address, "/:")+1:]
	if name, err := dialect.ParseQueue(address); err == nil {
		return name
	}
	return ""
}

// nameIn is the last part of an address on this broker, as it stands there.
func (d *Dialect) nameIn(w *dialect.Wire, address string) (string, error) {
	rest, query, _ := strings.Cut(address, "?")
	if err := onlyFanout(query); err != nil {
		return "", err
	}
	scheme, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return "", errors.New("it has no scheme")
	}
	switch scheme {
	case "exchange", "queue":
		return rest, nil
	case "rabbitmq", "rabbitmqs", "amqp", "amqps":
	default:
		return "", errors.New("its scheme is not that of RabbitMQ")
	}
	rest, ok = strings.CutPrefix(rest, "//")
	host, path, found := strings.Cut(rest, "/")
	if !ok || !found {
		return "", errors.New("it is not of the form rabbitmq://host/vhost/name")
	}
	virtualHost, name, two := strings.Cut(path, "/")
	if !two {
		virtualHost, name = "/", path
	}
	virtualHost, err := url.PathUnescape(virtualHost)
	if err != nil || virtualHost == "" {
		return "", errors.New("its virtual host is empty or not percent-encoded correctly")
	}
	if only, _, err := net.SplitHostPort(host); err == nil {
		host = only
	}
	if host = strings.Trim(host, "[]"); host == "" { // IPv6
		return "", errors.New("it has no host")
	}
	return name, w.Broker.Has(host, virtualHost, d.cfg.Hosts...)
}

// onlyFanout refuses addresses of exchanges that are not those of an endpoint.
func onlyFanout(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("its parameters are not percent-encoded correctly")
	}
	if kind := values.Get("type"); kind != "" && kind != "fanout" {
		return fmt.Errorf("it is an exchange of the type %.20q and no endpoint", kind)
	}
	return nil
}
