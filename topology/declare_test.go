package topology_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/topology"
)

// broker answers declares and remembers them; refuse maps what is asked to the
// error it is answered with. Like a real one it closes a channel with an error.
type broker struct {
	calls  []string
	args   map[string]amqp.Table
	refuse map[string]*amqp.Error
	opened int
	open   int
}

func (b *broker) channel() (topology.Channel, error) {
	b.opened++
	b.open++
	return &channel{broker: b}, nil
}

type channel struct {
	broker *broker
	dead   bool
	closed bool
}

func (c *channel) call(args amqp.Table, format string, values ...any) error {
	if c.dead || c.closed {
		return amqp.ErrClosed
	}
	call := fmt.Sprintf(format, values...)
	c.broker.calls = append(c.broker.calls, call)
	if c.broker.args == nil {
		c.broker.args = map[string]amqp.Table{}
	}
	c.broker.args[call] = args
	if err, ok := c.broker.refuse[call]; ok {
		c.dead = true
		return err
	}
	return nil
}

func (c *channel) ExchangeDeclare(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error {
	return c.call(args, "exchange %s %s %v %v %v %v", name, kind, durable, autoDelete, internal, noWait)
}

func (c *channel) ExchangeDeclarePassive(name, _ string, _, _, _, _ bool, args amqp.Table) error {
	return c.call(args, "exchange? %s", name)
}

func (c *channel) ExchangeBind(destination, key, source string, _ bool, args amqp.Table) error {
	return c.call(args, "bind exchange %s %s %s", destination, key, source)
}

func (c *channel) QueueDeclare(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error) {
	return amqp.Queue{Name: name}, c.call(args, "queue %s %v %v %v %v", name, durable, autoDelete, exclusive, noWait)
}

func (c *channel) QueueDeclarePassive(name string, _, _, _, _ bool, args amqp.Table) (amqp.Queue, error) {
	return amqp.Queue{Name: name}, c.call(args, "queue? %s", name)
}

func (c *channel) QueueBind(name, key, exchange string, _ bool, args amqp.Table) error {
	return c.call(args, "bind queue %s %s %s", name, key, exchange)
}

func (c *channel) QueueUnbind(name, key, exchange string, args amqp.Table) error {
	return c.call(args, "unbind queue %s %s %s", name, key, exchange)
}

func (c *channel) Close() error {
	if !c.closed {
		c.closed = true
		c.broker.open--
	}
	return nil
}

var service = topology.Topology{
	Exchanges: []topology.Exchange{{Name: "commands", Kind: topology.Direct}, {Name: "events", Kind: topology.Topic, Internal: true}},
	Queues: []topology.Queue{
		{Name: "orders", Arguments: map[string]any{"x-delivery-limit": 20}},
		{Name: "error", Type: topology.Classic},
		{Name: "mine", Type: topology.Classic, Exclusive: true, AutoDelete: true, Transient: true},
	},
	Bindings: []topology.Binding{
		{Exchange: "commands", Key: "orders", Queue: "orders"},
		{Exchange: "commands", Key: "#", ToExchange: "events", Arguments: map[string]any{"n": uint16(7)}},
		{Exchange: "elsewhere", Key: "k", Queue: "others"},
	},
}

func TestDeclare(t *testing.T) {
	t.Parallel()
	var b broker
	ch, _ := b.channel()
	if err := service.Declare(ch); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"exchange commands direct true false false false",
		"exchange events topic true false true false",
		"queue orders true false false false",
		"queue error true false false false",
		"queue mine false true true false",
		"bind queue orders orders commands",
		"bind exchange events # commands",
		"bind queue others k elsewhere",
	}
	if !slices.Equal(b.calls, want) {
		t.Errorf("declared\n%s\nwant\n%s", strings.Join(b.calls, "\n"), strings.Join(want, "\n"))
	}
	for call, want := range map[string]amqp.Table{
		want[2]: {"x-delivery-limit": int64(20), "x-queue-type": "quorum"},
		want[3]: {}, // a queue that PikaBus declared has no arguments
		want[6]: {"n": int64(7)},
	} {
		if got := b.args[call]; fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("%s with %#v, want %#v", call, got, want)
		}
	}
}

func TestDeclare_stops_at_the_first_error(t *testing.T) {
	t.Parallel()
	refusal := &amqp.Error{Code: amqp.PreconditionFailed, Reason: "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'orders' in vhost '/': received the value 'quorum' of type 'longstr' but current is none"}
	b := broker{refuse: map[string]*amqp.Error{"queue orders true false false false": refusal}}
	ch, _ := b.channel()
	err := service.Declare(ch)
	var failure *topology.Error
	var answer *amqp.Error
	if !errors.As(err, &failure) || !errors.As(err, &answer) || answer != refusal {
		t.Fatalf("got %v", err)
	}
	if failure.Op != "declare" || failure.Object != `queue "orders"` || failure.Asked != "durable quorum x-delivery-limit=20" {
		t.Errorf("got %#v", failure)
	}
	if last := b.calls[len(b.calls)-1]; last != "queue orders true false false false" {
		t.Errorf("went on with %q", last)
	}
}

func TestDeclare_refuses_what_cannot_be_encoded(t *testing.T) {
	t.Parallel()
	var b broker
	ch, _ := b.channel()
	err := topology.Topology{Queues: []topology.Queue{{Name: "q", Arguments: map[string]any{"x": make(chan int)}}}}.Declare(ch)
	var failure *topology.Error
	if !errors.As(err, &failure) || len(b.calls) > 0 {
		t.Errorf("got %v after %q", err, b.calls)
	}
}

func TestCheck_reports_everything_that_is_missing(t *testing.T) {
	t.Parallel()
	missing := func(what string) *amqp.Error {
		return &amqp.Error{Code: amqp.NotFound, Reason: "NOT_FOUND - no " + what}
	}
	b := broker{refuse: map[string]*amqp.Error{"exchange? events": missing("e"), "queue? orders": missing("o"), "queue? others": missing("p")}}
	err := service.Check(b.channel)
	if err == nil {
		t.Fatal("no error")
	}
	for _, object := range []string{`exchange "events"`, `queue "orders"`, `queue "others"`} {
		if !strings.Contains(err.Error(), "check "+object) {
			t.Errorf("%s is not reported in:\n%v", object, err)
		}
	}
	want := []string{"exchange? commands", "exchange? events", "exchange? elsewhere", "queue? orders", "queue? error", "queue? mine", "queue? others"}
	if !slices.Equal(b.calls, want) {
		t.Errorf("asked %q, want %q", b.calls, want)
	}
	if b.opened != 3 { // one, one after "events", one after "orders"
		t.Errorf("opened %d channels, want 3", b.opened)
	}
	if b.open != 0 {
		t.Errorf("left %d channels open", b.open)
	}
}

func TestCheck_does_not_report_what_it_may_not_see(t *testing.T) {
	t.Parallel()
	refused := &amqp.Error{Code: amqp.AccessRefused, Reason: "ACCESS_REFUSED"}
	b := broker{refuse: map[string]*amqp.Error{
		"exchange? commands": refused, "queue? error": refused,
		"queue? others": {Code: amqp.NotFound, Reason: "NOT_FOUND"},
	}}
	err := service.Check(b.channel)
	if err == nil || !strings.Contains(err.Error(), `check queue "others"`) || strings.Contains(err.Error(), "ACCESS_REFUSED") {
		t.Errorf("got %v, want that others is missing and nothing else", err)
	}
	if b.opened != 3 || b.open != 0 { // one, one after each refusal before the last question
		t.Errorf("opened %d channels and left %d open", b.opened, b.open)
	}
}

func TestCheck_of_what_exists(t *testing.T) {
	t.Parallel()
	var b broker
	if err := service.Check(b.channel); err != nil {
		t.Error(err)
	}
	if b.opened != 1 || b.open != 0 {
		t.Errorf("opened %d channels and left %d open", b.opened, b.open)
	}
}

func TestCheck_ends_when_no_channel_opens(t *testing.T) {
	t.Parallel()
	gone := errors.New("connection is gone")
	b := broker{refuse: map[string]*amqp.Error{"exchange? events": {Code: amqp.NotFound}}}
	err := service.Check(func() (topology.Channel, error) {
		if b.opened == 1 {
			return nil, gone
		}
		return b.channel()
	})
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), `exchange "events"`) {
		t.Errorf("got %v", err)
	}
	if len(b.calls) != 2 {
		t.Errorf("asked %q", b.calls)
	}
}

func TestError_says_what_to_do(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		op, object string
		code       int
		reason     string
		want       []string
	}{
		"other queue type":      {"declare", `queue "q"`, 406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q'", []string{"another x-queue-type", "choose the other queue type", "harebus topology migrate", "QueueOptions.AsFound"}},
		"other argument":        {"declare", `queue "q"`, 406, "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q'", []string{"another x-delivery-limit", "change Arguments"}},
		"other kind":            {"declare", `exchange "e"`, 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e'", []string{"another type", "choose the other kind", "-replace-exchanges"}},
		"not durable":           {"declare", `queue "q"`, 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'", []string{"another durable", "change Transient"}},
		"invalid argument":      {"declare", `queue "q"`, 406, "PRECONDITION_FAILED - invalid arg 'x-max-priority'", []string{"does not take these properties"}},
		"missing":               {"check", `queue "q"`, 404, "NOT_FOUND - no queue 'q'", []string{"does not exist", "start the service that owns it"}},
		"node down":             {"declare", `queue "q"`, 404, "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible", []string{"start that node"}},
		"binding to nothing":    {"declare", `binding of queue "q" to exchange "e" with key "k"`, 404, "NOT_FOUND - no queue 'q'", []string{"an end of the binding"}},
		"queue refused":         {"declare", `queue "q"`, 403, "ACCESS_REFUSED - access to queue 'q' refused", []string{"configure pattern"}},
		"exchange refused":      {"declare", `exchange "e"`, 403, "ACCESS_REFUSED - access to exchange 'e' refused", []string{"configure pattern must match the exchange"}},
		"binding refused":       {"declare", `binding of queue "q" to exchange "e" with key "k"`, 403, "ACCESS_REFUSED - access to queue 'q' refused", []string{"write pattern must match the queue", "read pattern the exchange"}},
		"exchanges refused":     {"declare", `binding of exchange "f" to exchange "e" with key "k"`, 403, "ACCESS_REFUSED - access to exchange 'f' refused", []string{"write pattern must match the destination"}},
		"name of the broker":    {"declare", `queue "amq.q"`, 403, "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'", []string{"choose another"}},
		"exclusive to somebody": {"declare", `queue "q"`, 405, "RESOURCE_LOCKED - cannot obtain exclusive access", []string{"exclusive to another connection"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := &amqp.Error{Code: c.code, Reason: c.reason}
			err := &topology.Error{Op: c.op, Object: c.object, Asked: "durable quorum", Err: answer}
			for _, text := range append(c.want, "topology: "+c.op+" "+c.object, "asked for: durable quorum", c.reason) {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("no %q in %q", text, err)
				}
			}
			if !errors.Is(err, answer) {
				t.Error("does not unwrap to the broker's answer")
			}
		})
	}
}
