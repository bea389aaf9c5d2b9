package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// queues looks at the wanted queues that exist.
func (e *examination) queues(ctx context.Context) error {
	for _, want := range e.Want.Queues {
		found := e.plan.Queues[want.Name]
		if !found.Exists || found.Hidden != "" {
			continue
		}
		reasons, err := e.dangers(ctx, found)
		if err != nil {
			return err
		}
		e.judge(want, found, reasons)
		e.contents(found)
	}
	return nil
}

// judge reports what is wrong with a queue: one finding if it is not as the service wants it,
// because one command mends it, and else one for each danger, which the service itself wants.
func (e *examination) judge(want topology.Queue, found survey.Queue, reasons []string) {
	object := fmt.Sprintf("queue %q", want.Name)
	if differ := plan.Queues(found.Queue, want); differ != "" {
		if len(reasons) == 0 {
			reasons = []string{"the service cannot declare it, and does not start"}
		}
		if peer := e.byPeer(found); peer != "" {
			reasons = append(reasons, peer)
		}
		e.fault(fmt.Sprintf("%s is not as wanted: %s", object, differ), strings.Join(reasons, "; "), e.migrate(want.Name))
		return
	}
	for _, reason := range reasons {
		e.warn(object+" has dangerous arguments", reason,
			fmt.Sprintf("change the service's QueueOptions or ErrorQueue, write %s anew, then: %s", shell(e.File), e.migrate(want.Name)))
	}
	if len(reasons) == 0 {
		e.passed()
	}
}

// contents reports messages that wait where none should.
func (e *examination) contents(found survey.Queue) {
	switch {
	case found.Type == topology.Stream: // it keeps its messages, and does not count its readers
	case e.tokens(e.wanted(found.Name)): // see schedules
	case e.errors[found.Name] && found.Ready > 0:
		e.warn(fmt.Sprintf("%d failed messages wait in queue %q", found.Ready, found.Name), "nobody handles them until they are moved back",
			"harebus redrive -error-queue "+shell(found.Name))
	case !e.errors[found.Name] && found.Consumers == 0:
		e.warn(fmt.Sprintf("nobody consumes from queue %q, and %d messages wait there", found.Name, found.Ready), "its messages are not handled", "start the service")
	default:
		e.passed()
	}
}

// number is an argument that is an integer.
func number(q topology.Queue, name string) (int64, bool) {
	n, ok := q.Arguments[name].(int64)
	return n, ok
}

// dangers are the reasons why a queue may lose messages or stop.
func (e *examination) dangers(ctx context.Context, found survey.Queue) (reasons []string, err error) {
	q := found.Queue
	if q.Type == topology.Stream && e.wanted(q.Name).Type == topology.Stream {
		return nil, nil // it keeps as much as is wanted
	}
	danger := func(text string, args ...any) { reasons = append(reasons, fmt.Sprintf(text, args...)) }
	if _, ok := number(q, "x-message-ttl"); ok {
		danger("x-message-ttl: a message that waits longer is dropped, or parked as if it had failed")
	}
	if _, ok := number(q, "x-expires"); ok {
		danger("x-expires: the broker deletes the queue, with its messages, when nobody has consumed from it for that long")
	}
	_, length := number(q, "x-max-length")
	_, bytes := number(q, "x-max-length-bytes")
	if (length || bytes) && q.Arguments["x-overflow"] != "reject-publish" {
		danger("a maximum length without x-overflow reject-publish: when the queue is full, the broker drops the oldest messages")
	}
	if q.AutoDelete {
		danger("auto-delete: the broker deletes the queue, with its messages, when its last consumer ends")
	}
	if q.Transient {
		danger("not durable: the queue and its messages are gone after a restart of the broker")
	}
	if q.Exclusive {
		danger("exclusive: only one connection can use it")
	}
	switch q.Type {
	case topology.Quorum:
		limits, err := e.limitDangers(ctx, q)
		return append(reasons, limits...), err
	case topology.Classic:
		if want := e.wanted(q.Name); want.Type != topology.Classic {
			danger("a classic queue lives on one node: while the node is down its messages wait, and if it never comes back they are lost")
		}
	default:
		danger("type %s: it gives no message to one consumer alone, so the service cannot use it", q.Type)
	}
	return reasons, nil
}

func (e *examination) wanted(name string) topology.Queue {
	for _, q := range e.Want.Queues {
		if q.Name == name {
			return q
		}
	}
	return topology.Queue{}
}

// limitDangers are those of the delivery limit of a quorum queue, and of what happens at it.
func (e *examination) limitDangers(ctx context.Context, q topology.Queue) (reasons []string, err error) {
	danger := func(text string, args ...any) { reasons = append(reasons, fmt.Sprintf(text, args...)) }
	limit, limited := number(q, "x-delivery-limit")
	target, deadLetters := q.Arguments["x-dead-letter-exchange"].(string)
	switch waits := e.errors[q.Name] || limit >= topology.LookLimit; {
	case limited && limit < 0:
		danger("x-delivery-limit %d: RabbitMQ 3.10 loses a message at its first requeue", limit)
	case waits && !limited:
		danger("no x-delivery-limit: RabbitMQ 4 then drops a message that was looked at 21 times, for example in the management page")
	case waits && limit < topology.LookLimit:
		danger("x-delivery-limit %d: the broker drops a message that was looked at more often, for example in the management page", limit)
	case waits:
		return nil, nil
	case !limited:
		danger("no x-delivery-limit: RabbitMQ 3 delivers a message that ends its process again and again, without end")
	}
	if !deadLetters {
		if !e.errors[q.Name] {
			danger("no x-dead-letter-exchange: at the delivery limit the broker drops the message instead of parking it")
		}
		return reasons, nil
	}
	if q.Arguments["x-dead-letter-strategy"] != "at-least-once" {
		danger("x-dead-letter-strategy is not at-least-once: a message can be lost on the way to the error queue")
	} else if q.Arguments["x-overflow"] != "reject-publish" {
		danger("x-dead-letter-strategy at-least-once without x-overflow reject-publish: the broker falls back to at-most-once")
	}
	missing, err := e.noTarget(ctx, q, target)
	if missing != "" {
		danger("%s: what the broker moves away at the delivery limit cannot arrive; it stays, and is in the way of what follows", missing)
	}
	return reasons, err
}

// noTarget says which target of dead-lettering does not exist.
func (e *examination) noTarget(ctx context.Context, q topology.Queue, exchange string) (string, error) {
	if exchange != "" {
		found, err := e.s.Exchange(ctx, topology.Exchange{Name: exchange, Kind: topology.Direct})
		if err != nil || found.Exists || found.Hidden != "" {
			return "", err
		}
		return fmt.Sprintf("x-dead-letter-exchange %q does not exist", exchange), nil
	}
	key, _ := q.Arguments["x-dead-letter-routing-key"].(string)
	if key == "" {
		return "x-dead-letter-routing-key is missing, so messages would go back to their own queue", nil
	}
	found, err := e.s.Queue(ctx, topology.Queue{Name: key})
	if err != nil || found.Exists || found.Hidden != "" {
		return "", err
	}
	return fmt.Sprintf("x-dead-letter-routing-key names queue %q, which does not exist", key), nil
}

// delays looks at the delay queues that exist. None has to.
func (e *examination) delays(ctx context.Context) error {
	var d topology.Delays
	t := d.Topology()
	for _, q := range e.Want.Queues {
		t = topology.Join(t, d.Exit("", q.Name))
	}
	hidden := map[string]int{} // by the reason; there are more than a hundred delay queues
	for _, want := range t.Queues {
		found, err := e.s.Queue(ctx, want)
		if err != nil {
			return err
		}
		lost := want.Name == topology.DefaultDelayPrefix+".lost"
		switch {
		case !found.Exists:
		case found.Hidden != "":
			hidden[found.Hidden]++
		case plan.Queues(found.Queue, want) != "":
			e.fault(fmt.Sprintf("delay queue %q is not as wanted: %s", want.Name, plan.Queues(found.Queue, want)),
				fmt.Sprintf("deferred messages and retries come early, late or never, or cannot be sent; %d messages wait in it", found.Ready), e.deleteDelay(found))
		case lost && found.Ready > 0:
			e.fault(fmt.Sprintf("%d deferred messages lie in queue %q", found.Ready, want.Name), "a delay queue on their way was deleted; they are never handled",
				"harebus deferred restore -lost   (each goes where it was to go; when it is due)")
		default:
			e.passed()
		}
	}
	for _, why := range slices.Sorted(maps.Keys(hidden)) {
		e.unchecked("%d delay queues (%s.*): %s", hidden[why], topology.DefaultDelayPrefix, why)
	}
	return nil
}

// deleteDelay is the command that deletes an empty delay queue. RabbitMQ has no --if-empty for quorum queues.
func (e *examination) deleteDelay(q survey.Queue) string {
	switch {
	case q.Ready > 0:
		return "wait until its messages have left it (harebus deferred shows when they are due), and run the doctor again"
	case q.Type == topology.Classic:
		return e.ctl("delete_queue", "--if-empty", q.Name)
	}
	return e.ctl("delete_queue", q.Name)
}
