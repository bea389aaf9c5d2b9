package topology

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// table converts arguments to what the client library encodes, and finds all
// that it cannot.
func table(arguments map[string]any) (amqp.Table, error) {
	t := make(amqp.Table, len(arguments))
	var faults []error
	for _, key := range sortedKeys(arguments) {
		value, err := argument(key, arguments[key])
		if err != nil {
			faults = append(faults, err)
			continue
		}
		t[key] = value
	}
	return t, errors.Join(faults...)
}

// argument converts one argument. Every integer becomes an int64, so that
// arguments can be compared.
func argument(key string, value any) (any, error) {
	if fault := stringFault(key); key == "" || fault != "" {
		return nil, fmt.Errorf("argument name %s is empty or %s", quoted(key), fault)
	}
	one, err := field.Table(map[string]any{key: value})
	if err != nil {
		return nil, fmt.Errorf("argument %w", err)
	}
	if r := reflect.ValueOf(one[key]); r.CanInt() {
		return r.Int(), nil
	} else if r.CanUint() {
		return int64(r.Uint()), nil //nolint:gosec // field leaves 32 bits at most unsigned
	}
	return one[key], nil
}

// equalArguments compares arguments as the broker would: 20 and int64(20) are
// the same.
func equalArguments(a, b map[string]any) bool {
	left, leftErr := table(a)
	right, rightErr := table(b)
	return leftErr == nil && rightErr == nil && reflect.DeepEqual(left, right)
}

func argumentFaults(object string, arguments map[string]any) []error {
	if _, err := table(arguments); err != nil {
		return []error{fmt.Errorf("topology: validate %s: %w", object, err)}
	}
	return nil
}

// leastInteger holds the smallest value of each queue argument that must be an
// integer. A delivery limit of -1 (no limit) is left out on purpose: RabbitMQ
// 3.10 accepts it and loses the message when it is requeued for the first time.
var leastInteger = map[string]int64{
	"x-delivery-limit":   0,
	"x-message-ttl":      0,
	"x-expires":          1,
	"x-max-length":       0,
	"x-max-length-bytes": 0,
	"x-max-priority":     0,

	"x-stream-max-segment-size-bytes": 1,
	"x-initial-cluster-size":          1,
}

// queueArgumentFaults finds arguments that the broker refuses, or takes and
// then loses messages by.
func queueArgumentFaults(object string, arguments map[string]any) []error {
	var faults []error
	fault := func(text string, args ...any) {
		faults = append(faults, fmt.Errorf("topology: validate %s: %s", object, fmt.Sprintf(text, args...)))
	}
	for _, name := range sortedKeys(leastInteger) {
		value, ok := arguments[name]
		if !ok {
			continue
		}
		converted, err := argument(name, value)
		if err != nil {
			continue // reported with the other arguments
		}
		n, ok := converted.(int64)
		switch {
		case !ok:
			fault("%s is %v (%T), not an integer", name, value, value)
		case name == "x-delivery-limit" && n < 0:
			fault("x-delivery-limit %d: a negative limit loses messages on RabbitMQ 3.10; leave it out or choose a large one", n)
		case n < leastInteger[name]:
			fault("%s %d is less than %d", name, n, leastInteger[name])
		}
	}
	_, deadLetters := arguments["x-dead-letter-exchange"]
	if _, ok := arguments["x-dead-letter-routing-key"]; ok && !deadLetters {
		fault("x-dead-letter-routing-key without x-dead-letter-exchange")
	}
	if arguments["x-dead-letter-strategy"] == "at-least-once" {
		if !deadLetters {
			fault("x-dead-letter-strategy at-least-once without x-dead-letter-exchange")
		}
		if arguments["x-overflow"] != "reject-publish" {
			fault("x-dead-letter-strategy at-least-once needs x-overflow reject-publish; the broker falls back to at-most-once otherwise")
		}
	}
	return faults
}

// describeArguments lists arguments by name, for error texts.
func describeArguments(arguments map[string]any) string {
	parts := make([]string, 0, len(arguments))
	for _, key := range sortedKeys(arguments) {
		if text, ok := arguments[key].(string); ok {
			parts = append(parts, fmt.Sprintf("%s=%s", key, quoted(text)))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s=%v", key, arguments[key]))
	}
	return strings.Join(parts, " ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
