package topology

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxArgumentDepth bounds nested tables: the client library reads no deeper.
const maxArgumentDepth = 32

// table converts arguments to what the client library encodes. Every integer
// becomes an int64, because the library writes a Go int as 32 bits and drops
// the rest.
func table(arguments map[string]any) (amqp.Table, error) {
	t := make(amqp.Table, len(arguments))
	var faults []error
	for _, key := range sortedKeys(arguments) {
		if err := argumentKey(key); err != nil {
			faults = append(faults, err)
			continue
		}
		value, err := field(arguments[key], 1)
		if err != nil {
			faults = append(faults, fmt.Errorf("argument %q: %w", key, err))
			continue
		}
		t[key] = value
	}
	return t, errors.Join(faults...)
}

func argumentKey(key string) error {
	if key == "" {
		return errors.New("argument with an empty name")
	}
	if fault := stringFault(key); fault != "" {
		return fmt.Errorf("argument name %s %s", quoted(key), fault)
	}
	return nil
}

// field converts one value, or says why it cannot be sent.
func field(value any, depth int) (any, error) {
	if depth > maxArgumentDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxArgumentDepth)
	}
	switch v := value.(type) {
	case nil, bool, string, []byte, time.Time, amqp.Decimal:
		return v, nil
	case float32:
		return v, finite(float64(v))
	case float64:
		return v, finite(v)
	}
	r := reflect.ValueOf(value)
	switch r.Kind() {
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.String:
		return r.String(), nil
	case reflect.Float32, reflect.Float64:
		return r.Float(), finite(r.Float())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("%d does not fit into 64 bits with a sign", r.Uint())
		}
		return int64(r.Uint()), nil //nolint:gosec // bounded one line above
	case reflect.Slice, reflect.Array:
		return list(r, depth)
	case reflect.Map:
		return nested(r, depth)
	default:
		return nil, fmt.Errorf("a %T cannot be sent", value)
	}
}

func finite(v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("%v closes the connection", v)
	}
	return nil
}

func list(r reflect.Value, depth int) (any, error) {
	values := make([]any, r.Len())
	for i := range values {
		value, err := field(r.Index(i).Interface(), depth+1)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		values[i] = value
	}
	return values, nil
}

func nested(r reflect.Value, depth int) (any, error) {
	if r.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("a %s cannot be sent", r.Type())
	}
	t := make(amqp.Table, r.Len())
	for entries := r.MapRange(); entries.Next(); {
		key := entries.Key().String()
		if err := argumentKey(key); err != nil {
			return nil, err
		}
		value, err := field(entries.Value().Interface(), depth+1)
		if err != nil {
			return nil, fmt.Errorf("entry %q: %w", key, err)
		}
		t[key] = value
	}
	return t, nil
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
		converted, err := field(value, 1)
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
