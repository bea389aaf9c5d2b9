package topology

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxShortString is the longest name or key AMQP 0-9-1 can carry, in bytes. A
// longer one closes the whole connection.
const maxShortString = 255

// ErrInvalidName is wrapped by every error of [ValidName], [ValidTopic] and
// [ValidRoutingKey].
var ErrInvalidName = errors.New("invalid name")

// ValidName reports whether a queue or an exchange may be declared under name;
// kind ("queue", "exchange") only appears in the error.
//
// A name is 1 to 255 bytes of valid UTF-8 without control characters and does not
// start with "amq.", which the broker reserves. Control characters are refused
// because the broker drops line breaks from a name and then creates an object with
// another name. Everything else is allowed, also spaces and wildcards, which have
// no meaning in a name.
func ValidName(kind, name string) error {
	if strings.HasPrefix(name, "amq.") {
		return fmt.Errorf("topology: validate %s name %s: %w: names starting with \"amq.\" belong to the broker", kind, quoted(name), ErrInvalidName)
	}
	return existingName(kind, name)
}

// existingName is ValidName for objects that somebody else, or the broker
// itself, has declared.
func existingName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("topology: validate %s name: %w: it is empty", kind, ErrInvalidName)
	}
	return shortString(kind+" name", name)
}

// ValidTopic reports whether a subscription may ask for pattern: words
// separated by dots, where the word "*" stands for exactly one word and "#" for
// any number of them.
//
// It must follow the rules of [ValidRoutingKey], with wildcards allowed, and a
// wildcard must be a whole word: the broker takes "order*" literally, so the
// subscription would never match, which looks like lost events.
func ValidTopic(pattern string) error {
	if pattern == "" {
		return fmt.Errorf("topology: validate topic: %w: it is empty", ErrInvalidName)
	}
	if err := shortString("topic", pattern); err != nil {
		return err
	}
	for word := range strings.SplitSeq(pattern, ".") {
		if len(word) > 1 && strings.ContainsAny(word, "*#") {
			return fmt.Errorf("topology: validate topic %s: %w: a wildcard must be a word of its own, but the word %s contains one", quoted(pattern), ErrInvalidName, quoted(word))
		}
	}
	return nil
}

// ValidRoutingKey reports whether a message may be published with key.
//
// A key is 1 to 255 bytes of valid UTF-8 without control characters: a longer one
// closes the connection, and keys with control characters look alike in logs. A
// word that is exactly "*" or "#" is refused, because it is a pattern for
// subscriptions and only wildcards would match it. Every other key is allowed,
// because peers on the bus use keys with spaces, empty words ("a..b") and "#"
// inside a word, which have no special meaning to the broker. If strangers choose
// parts of a topic, allow fewer characters yourself.
func ValidRoutingKey(key string) error {
	if key == "" {
		return fmt.Errorf("topology: validate routing key: %w: it is empty", ErrInvalidName)
	}
	if err := shortString("routing key", key); err != nil {
		return err
	}
	for word := range strings.SplitSeq(key, ".") {
		if word == "*" || word == "#" {
			return fmt.Errorf("topology: validate routing key %s: %w: the word %q has a meaning in subscriptions only", quoted(key), ErrInvalidName, word)
		}
	}
	return nil
}

func shortString(what, value string) error {
	if fault := stringFault(value); fault != "" {
		return fmt.Errorf("topology: validate %s %s: %w: it %s", what, quoted(value), ErrInvalidName, fault)
	}
	return nil
}

// stringFault says what makes value unfit as a short string, or nothing.
func stringFault(value string) string {
	switch {
	case len(value) > maxShortString:
		return fmt.Sprintf("has %d bytes, more than %d", len(value), maxShortString)
	case !utf8.ValidString(value):
		return "is not valid UTF-8"
	case strings.ContainsFunc(value, unicode.IsControl):
		return "contains a control character"
	default:
		return ""
	}
}

// quoted makes any string safe and short enough for an error text.
func quoted(value string) string {
	const shown = 80
	if len(value) > shown {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(value[:shown], "�"))
	}
	return fmt.Sprintf("%q", value)
}
