package brokertest

import (
	"slices"
	"strings"
	"time"
)

// overflow says what a full queue does.
type overflow int

const (
	overflowDropHead overflow = iota
	overflowReject
	overflowRejectDLX
)

// queueLimits is what the arguments of a queue mean.
type queueLimits struct {
	quorum, stream   bool
	maxAge           time.Duration // of a stream; 0: for ever
	segmentBytes     int64         // likewise
	ttl              time.Duration
	hasTTL           bool
	expires          time.Duration // 0: never
	maxLength        int64
	maxBytes         int64
	hasMaxLength     bool
	hasMaxBytes      bool
	overflow         overflow
	maxPriority      int
	singleActive     bool
	deliveryLimit    int
	hasDeliveryLimit bool
	dlx              string
	hasDLX           bool
	dlKey            string
	hasDLKey         bool
	atLeastOnce      bool
}

func (l *queueLimits) bounded() bool { return l.hasMaxLength || l.hasMaxBytes }

// exceeded says whether a queue with n messages of so many bytes is too full.
func (l *queueLimits) exceeded(n, bytes int) bool {
	return l.hasMaxLength && int64(n) > l.maxLength || l.hasMaxBytes && int64(bytes) > l.maxBytes
}

// belowSoft says whether a quorum queue that was full takes messages again.
func (l *queueLimits) belowSoft(n, bytes int) bool {
	return !(l.hasMaxLength && float64(n) >= 0.8*float64(l.maxLength)) &&
		!(l.hasMaxBytes && float64(bytes) >= 0.8*float64(l.maxBytes))
}

// argument describes one x-argument of a queue declaration.
type argument struct {
	name                    string
	classic, quorum, stream bool
	check                   func(value, table) string // "" when the value is fine
}

// known says whether queues of the type have the argument.
func (a *argument) known(l *queueLimits) bool {
	switch {
	case l.stream:
		return a.stream
	case l.quorum:
		return a.quorum
	}
	return a.classic
}

// module is RabbitMQ's name of the type.
func (l *queueLimits) module() string {
	switch {
	case l.stream:
		return "rabbit_stream_queue"
	case l.quorum:
		return "rabbit_quorum_queue"
	}
	return "rabbit_classic_queue"
}

// arguments lists the x-arguments RabbitMQ 3.10 knows.
var arguments = []argument{
	{"x-expires", true, true, false, checkExpires},
	{"x-message-ttl", true, true, false, checkTTL},
	{"x-dead-letter-exchange", true, true, false, checkString},
	{"x-dead-letter-routing-key", true, true, false, checkDeadLetterKey},
	{"x-dead-letter-strategy", false, true, false, oneOf("invalid_dlx_strategy", "at-most-once", "at-least-once")},
	{"x-max-length", true, true, false, checkNatural},
	{"x-max-length-bytes", true, true, true, checkNatural},
	{"x-max-in-memory-length", false, true, false, checkNatural},
	{"x-max-in-memory-bytes", false, true, false, checkNatural},
	{"x-max-priority", true, false, false, checkPriority},
	{"x-overflow", true, true, false, oneOf("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx")},
	{"x-queue-mode", true, false, false, oneOf("unsupported queue mode", "default", "lazy")},
	{"x-queue-version", true, false, false, checkNatural},
	{"x-single-active-consumer", true, true, false, checkBool},
	{"x-queue-type", true, true, true, checkString},
	{"x-queue-master-locator", true, false, false, checkString},
	{"x-quorum-initial-group-size", false, true, false, checkPositive},
	{"x-delivery-limit", false, true, false, checkInteger},
	{"x-queue-leader-locator", false, true, true, oneOf("invalid_queue_locator_arg", "client-local", "balanced", "random", "least-leaders")},
	{"x-max-age", false, false, true, checkAge},
	{"x-stream-max-segment-size-bytes", false, false, true, checkSegment},
	{"x-initial-cluster-size", false, false, true, checkPositive},
}

// parseLimits checks the arguments of a queue called resource and reads them.
func (b *Broker) parseLimits(resource string, args table) (queueLimits, *amqpError) {
	var l queueLimits
	if v, ok := args.lookup("x-queue-type"); ok {
		switch v.v {
		case "classic":
		case "quorum":
			l.quorum = true
		case "stream":
			l.stream = true
		default:
			return l, errPrecondition("invalid arg 'x-queue-type' for %s: \"unsupported queue type '%v'\"", resource, v)
		}
	}
	for _, a := range arguments {
		v, ok := args.lookup(a.name)
		if !ok || !a.known(&l) {
			continue
		}
		if l.stream && a.name == "x-max-age" && v.kind == 'S' && !strings.ContainsAny(args.str(a.name), "0123456789") {
			return l, errInternal("x-max-age %v", v) // the channel crashes
		}
		if fault := a.check(v, args); fault != "" {
			return l, errPrecondition("invalid arg '%s' for %s: %s", a.name, resource, fault)
		}
	}
	for _, f := range args {
		if !strings.HasPrefix(f.key, "x-") {
			continue
		}
		i := slices.IndexFunc(arguments, func(a argument) bool { return a.name == f.key })
		switch {
		case i < 0:
			return l, errPrecondition("invalid arg '%s' for %s: not modelled by brokertest", f.key, resource)
		case !arguments[i].known(&l):
			return l, errPrecondition("invalid arg '%s' for %s of queue type %s", f.key, resource, l.module())
		}
	}
	l.read(b, args)
	return l, nil
}

// read takes over arguments that were checked.
func (l *queueLimits) read(b *Broker, args table) {
	number := func(name string) (int64, bool) {
		v, _ := args.lookup(name)
		return v.integer()
	}
	if n, ok := number("x-message-ttl"); ok {
		l.ttl, l.hasTTL = time.Duration(n)*time.Millisecond, true
	}
	if n, ok := number("x-expires"); ok {
		l.expires = time.Duration(n) * time.Millisecond
	}
	l.maxLength, l.hasMaxLength = number("x-max-length")
	l.maxBytes, l.hasMaxBytes = number("x-max-length-bytes")
	if n, ok := number("x-max-priority"); ok {
		l.maxPriority = int(n)
	}
	if v, ok := args.lookup("x-single-active-consumer"); ok {
		l.singleActive = v.v == true
	}
	l.maxAge, l.segmentBytes = span(args.str("x-max-age")), segmentBytes
	if n, ok := number("x-stream-max-segment-size-bytes"); ok {
		l.segmentBytes = n
	}
	switch args.str("x-overflow") {
	case "reject-publish":
		l.overflow = overflowReject
	case "reject-publish-dlx":
		if !l.quorum { // a quorum queue does not know it and drops from the head
			l.overflow = overflowRejectDLX
		}
	}
	if l.quorum {
		l.deliveryLimit, l.hasDeliveryLimit = b.cfg.deliveryLimit, b.cfg.deliveryLimit >= 0
		if n, ok := number("x-delivery-limit"); ok {
			l.deliveryLimit, l.hasDeliveryLimit = int(n), true
		}
	}
	_, l.hasDLX = args.lookup("x-dead-letter-exchange")
	l.dlx = args.str("x-dead-letter-exchange")
	_, l.hasDLKey = args.lookup("x-dead-letter-routing-key")
	l.dlKey = args.str("x-dead-letter-routing-key")
	l.atLeastOnce = l.quorum && l.hasDLX && l.overflow == overflowReject && args.str("x-dead-letter-strategy") == "at-least-once"
}

func checkInteger(v value, _ table) string {
	if _, ok := v.integer(); !ok {
		return "\"expected integer, got " + v.typeName() + "\""
	}
	return ""
}

func checkNatural(v value, args table) string {
	if s := checkInteger(v, args); s != "" {
		return s
	}
	if n, _ := v.integer(); n < 0 {
		return "{value_negative," + v.String() + "}"
	}
	return ""
}

func checkPositive(v value, args table) string {
	if s := checkNatural(v, args); s != "" {
		return s
	}
	if n, _ := v.integer(); n == 0 {
		return "{value_zero,0}"
	}
	return ""
}

func checkTTL(v value, args table) string {
	if s := checkNatural(v, args); s != "" {
		return s
	}
	if n, _ := v.integer(); n > maxExpiry {
		return "{value_too_large," + v.String() + "}"
	}
	return ""
}

func checkExpires(v value, args table) string {
	if s := checkTTL(v, args); s != "" {
		return s
	}
	return checkPositive(v, args)
}

func checkPriority(v value, args table) string {
	if s := checkNatural(v, args); s != "" {
		return s
	}
	if n, _ := v.integer(); n > 255 {
		return "{max_value_exceeded," + v.String() + "}"
	}
	return ""
}

func checkAge(v value, args table) string {
	if s := checkString(v, args); s != "" {
		return s
	}
	if span(args.str("x-max-age")) == 0 {
		return "{invalid_max_age}"
	}
	return ""
}

// checkSegment knows the largest segment of a stream.
func checkSegment(v value, args table) string {
	if s := checkNatural(v, args); s != "" {
		return s
	}
	if n, _ := v.integer(); n > 3_000_000_000 {
		return "{value_too_large," + v.String() + "}"
	}
	return ""
}

func checkString(v value, _ table) string {
	if v.kind != 'S' {
		return "{unacceptable_type," + v.typeName() + "}"
	}
	return ""
}

func checkDeadLetterKey(v value, args table) string {
	if s := checkString(v, args); s != "" {
		return s
	}
	if _, ok := args.lookup("x-dead-letter-exchange"); !ok {
		return "routing_key_but_no_dlx_defined"
	}
	return ""
}

func checkBool(v value, _ table) string {
	if v.kind != 't' {
		return "{unacceptable_type," + v.typeName() + "}"
	}
	return ""
}

// oneOf accepts the given strings and reports fault for others.
func oneOf(fault string, allowed ...string) func(value, table) string {
	return func(v value, args table) string {
		if s := checkString(v, args); s != "" {
			return s
		}
		if !slices.Contains(allowed, v.v.(string)) {
			return fault
		}
		return ""
	}
}
