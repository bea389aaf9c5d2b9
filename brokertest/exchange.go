package brokertest

import (
	"slices"
	"strings"

	"github.com/harebus/harebus/internal/topics"
)

// exchange routes messages to queues and other exchanges.
type exchange struct {
	vhost      *vhost
	name       string
	kind       string
	durable    bool
	autoDelete bool
	internal   bool
	args       table
	alternate  string

	bindings []*binding
	byKey    map[string][]*binding // of a direct exchange
}

// binding leads from an exchange to a queue or another exchange.
type binding struct {
	source *exchange
	queue  *queue    // nil when the destination is an exchange
	target *exchange // nil when the destination is a queue
	key    string
	args   table
}

func (x *exchange) String() string {
	return "exchange '" + x.name + "' in vhost '" + x.vhost.name + "'"
}

// resource names a queue or exchange the way RabbitMQ's error texts do.
func (v *vhost) resource(kind, name string) string {
	return kind + " '" + name + "' in vhost '" + v.name + "'"
}

func (v *vhost) exchange(name string) (*exchange, *amqpError) {
	if x, ok := v.exchanges[name]; ok {
		return x, nil
	}
	return nil, errNotFound("no %s", v.resource("exchange", name))
}

// declareExchange makes an exchange or checks that the one there is the same.
func (v *vhost) declareExchange(m *exchangeDeclare) *amqpError {
	name := stripLines(m.exchange)
	if name == "" {
		return errDefaultExchange()
	}
	if m.passive {
		_, err := v.exchange(name)
		return err
	}
	switch m.kind {
	case "direct", "fanout", "topic", "headers":
	default:
		return errCommandInvalid("unknown exchange type '%s' (brokertest models direct, fanout, topic and headers)", m.kind)
	}
	alternate, err := v.alternate(name, m.arguments)
	if err != nil {
		return err
	}
	if x, ok := v.exchanges[name]; ok {
		return x.equivalent(m)
	}
	if strings.HasPrefix(name, "amq.") {
		return errReserved("exchange", name)
	}
	v.exchanges[name] = &exchange{
		vhost: v, name: name, kind: m.kind, durable: m.durable, autoDelete: m.autoDelete,
		internal: m.internal, args: m.arguments, alternate: alternate,
	}
	return nil
}

// alternate reads the alternate exchange and refuses what is not modelled.
func (v *vhost) alternate(name string, args table) (string, *amqpError) {
	for _, f := range args {
		if strings.HasPrefix(f.key, "x-") {
			return "", errPrecondition("invalid arg '%s' for %s: not modelled by brokertest", f.key, v.resource("exchange", name))
		}
	}
	ae, ok := args.lookup("alternate-exchange")
	if ok && ae.kind != 'S' {
		return "", errPrecondition("invalid type '%s' for arg 'alternate-exchange' in %s", ae.typeName(), v.resource("exchange", name))
	}
	return args.str("alternate-exchange"), nil
}

// equivalent checks a second declaration against the exchange that is there.
func (x *exchange) equivalent(m *exchangeDeclare) *amqpError {
	if err := sameField(x.String(), "type", m.kind, x.kind); err != nil {
		return err
	}
	if err := sameField(x.String(), "durable", m.durable, x.durable); err != nil {
		return err
	}
	if err := sameField(x.String(), "auto_delete", m.autoDelete, x.autoDelete); err != nil {
		return err
	}
	if err := sameField(x.String(), "internal", m.internal, x.internal); err != nil {
		return err
	}
	return sameArgument(x.String(), "alternate-exchange", m.arguments, x.args)
}

// deleteExchange removes an exchange and the bindings from and to it.
func (v *vhost) deleteExchange(name string, ifUnused bool) *amqpError {
	if name == "" {
		return errDefaultExchange()
	}
	if strings.HasPrefix(name, "amq.") {
		return errAccessRefused("deletion of system %s not allowed", v.resource("exchange", name))
	}
	x, ok := v.exchanges[name]
	switch {
	case !ok:
		return nil
	case ifUnused && len(x.bindings) > 0:
		return errPrecondition("%s in use", x)
	}
	v.removeExchange(x)
	return nil
}

func (v *vhost) removeExchange(x *exchange) {
	delete(v.exchanges, x.name)
	for _, b := range slices.Clone(x.bindings) {
		v.removeBinding(b)
	}
	v.unbindAll(func(b *binding) bool { return b.target == x })
}

// unbindAll removes every binding match accepts, with the auto-delete exchanges
// that lose their last one.
func (v *vhost) unbindAll(match func(*binding) bool) {
	for _, b := range slices.Clone(v.bindings) {
		if match(b) {
			v.removeBinding(b)
		}
	}
}

// bind adds a binding; the same binding twice is one.
func (v *vhost) bind(b *binding) {
	if v.findBinding(b) != nil {
		return
	}
	v.bindings = append(v.bindings, b)
	x := b.source
	x.bindings = append(x.bindings, b)
	if x.kind == "direct" {
		if x.byKey == nil {
			x.byKey = map[string][]*binding{}
		}
		x.byKey[b.key] = append(x.byKey[b.key], b)
	}
}

// findBinding returns the binding that is the same as like, or nil.
func (v *vhost) findBinding(like *binding) *binding {
	candidates := like.source.bindings
	if like.source.kind == "direct" {
		candidates = like.source.byKey[like.key]
	}
	for _, b := range candidates {
		if b.queue == like.queue && b.target == like.target && b.key == like.key && b.args.equal(like.args) {
			return b
		}
	}
	return nil
}

func (v *vhost) removeBinding(b *binding) {
	v.bindings = remove(v.bindings, b)
	x := b.source
	x.bindings = remove(x.bindings, b)
	if x.kind == "direct" {
		if x.byKey[b.key] = remove(x.byKey[b.key], b); len(x.byKey[b.key]) == 0 {
			delete(x.byKey, b.key)
		}
	}
	if x.autoDelete && len(x.bindings) == 0 && v.exchanges[x.name] == x {
		v.removeExchange(x)
	}
}

// remove returns s without the first x.
func remove[T comparable](s []T, x T) []T {
	if i := slices.Index(s, x); i >= 0 {
		return slices.Delete(s, i, i+1)
	}
	return s
}

// route returns the queues a message published to x reaches, by name.
func (v *vhost) route(x *exchange, keys []string, headers table) []*queue {
	found := map[*queue]bool{}
	if x.name == "" {
		for _, key := range keys {
			if q, ok := v.queues[key]; ok {
				found[q] = true
			}
		}
	} else {
		v.walk(x, keys, headers, found)
	}
	queues := make([]*queue, 0, len(found))
	for q := range found {
		queues = append(queues, q)
	}
	slices.SortFunc(queues, func(a, b *queue) int { return strings.Compare(a.name, b.name) })
	return queues
}

// walk follows the bindings from x through other exchanges. If no binding of an
// exchange matches, its alternate exchange is used.
func (v *vhost) walk(x *exchange, keys []string, headers table, found map[*queue]bool) {
	seen := map[*exchange]bool{x: true}
	for todo := []*exchange{x}; len(todo) > 0; {
		x, todo = todo[0], todo[1:]
		matched := false
		visit := func(next *exchange) {
			if next != nil && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
		x.match(keys, headers, func(b *binding) {
			matched = true
			if b.queue != nil {
				found[b.queue] = true
			} else {
				visit(b.target)
			}
		})
		if x.name == "" {
			for _, key := range keys {
				if q, ok := v.queues[key]; ok {
					matched, found[q] = true, true
				}
			}
		}
		if !matched && x.alternate != "" {
			visit(v.exchanges[x.alternate])
		}
	}
}

// match calls f for each binding of x a message matches.
func (x *exchange) match(keys []string, headers table, f func(*binding)) {
	switch x.kind {
	case "direct":
		for i, key := range keys {
			if slices.Contains(keys[:i], key) {
				continue
			}
			for _, b := range x.byKey[key] {
				f(b)
			}
		}
	case "fanout":
		for _, b := range x.bindings {
			f(b)
		}
	case "topic":
		for _, b := range x.bindings {
			if slices.ContainsFunc(keys, func(key string) bool { return topics.Match(b.key, key) }) {
				f(b)
			}
		}
	case "headers":
		for _, b := range x.bindings {
			if headersMatch(b.args, headers) {
				f(b)
			}
		}
	}
}

// checkMatch checks the x-match argument of a binding to a headers exchange.
func checkMatch(args table) *amqpError {
	v, ok := args.lookup("x-match")
	if !ok {
		return nil
	}
	if v.kind != 'S' {
		return errPrecondition("Invalid x-match field type %s (value %v); expected longstr", v.typeName(), v)
	}
	switch v.v {
	case "all", "any", "all-with-x", "any-with-x":
		return nil
	}
	return errPrecondition("Invalid x-match field value <<\"%v\">>; expected all, any, all-with-x, or any-with-x", v)
}

// headersMatch matches headers against the arguments of a binding.
func headersMatch(args, headers table) bool {
	mode := args.str("x-match")
	some := strings.HasPrefix(mode, "any")
	withX := strings.HasSuffix(mode, "-with-x")
	for _, want := range args {
		if want.key == "x-match" || !withX && strings.HasPrefix(want.key, "x-") {
			continue
		}
		got, ok := headers.lookup(want.key)
		ok = ok && (want.val.kind == 'V' || want.val.equal(got))
		if ok == some {
			return some
		}
	}
	return !some
}

var lineEnds = strings.NewReplacer("\n", "", "\r", "")

// stripLines removes line breaks from a name, as RabbitMQ does.
func stripLines(s string) string {
	return lineEnds.Replace(s)
}

func errDefaultExchange() *amqpError {
	return errAccessRefused("operation not permitted on the default exchange")
}

func errReserved(kind, name string) *amqpError {
	return errAccessRefused("%s name '%s' contains reserved prefix 'amq.*'", kind, name)
}

// sameField compares a property of a second declaration with the first's.
func sameField[T comparable](resource, name string, got, want T) *amqpError {
	if got == want {
		return nil
	}
	return errPrecondition("inequivalent arg '%s' for %s: received '%v' but current is '%v'", name, resource, got, want)
}

// sameArgument compares an argument of a second declaration with the first's.
func sameArgument(resource, name string, got, want table) *amqpError {
	g, gok := got.lookup(name)
	w, wok := want.lookup(name)
	if gok == wok && (!gok || g.equal(w)) {
		return nil
	}
	if name == "x-queue-type" && (!gok || g.v == "classic") && (!wok || w.v == "classic") {
		return nil
	}
	show := func(v value, ok bool) string {
		if !ok {
			return "none"
		}
		if gok && wok {
			return "'" + v.String() + "'"
		}
		return "the value '" + v.String() + "' of type '" + v.typeName() + "'"
	}
	return errPrecondition("inequivalent arg '%s' for %s: received %s but current is %s", name, resource, show(g, gok), show(w, wok))
}
