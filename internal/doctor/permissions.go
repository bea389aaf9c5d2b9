package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/harebus/harebus/topology"
)

// permissions asks whether the user may do what the service does: it has to be that of the
// service.
func (e *examination) permissions(ctx context.Context) error {
	var refused []string
	note := func(may bool, err error, what string, args ...any) error {
		if err == nil && !may {
			refused = append(refused, fmt.Sprintf(what, args...))
		} else if err == nil {
			e.passed()
		}
		return err
	}
	for _, q := range e.Want.Queues {
		may, err := e.s.MayConfigure(ctx, q.Name)
		if err := note(may, err, "declare queue %q (configure)", q.Name); err != nil {
			return err
		}
		if found := e.plan.Queues[q.Name]; !found.Exists || e.errors[q.Name] {
			continue
		}
		may, err = e.s.MayConsume(ctx, q.Name)
		if err := note(may, err, "consume from queue %q (read)", q.Name); err != nil {
			return err
		}
	}
	for _, b := range e.Want.Bindings {
		if b.Queue == "" {
			continue
		}
		queue, exchange, err := e.s.MayBind(ctx, b.Queue, b.Exchange)
		if err := note(!queue, err, "bind queue %q (write)", b.Queue); err != nil {
			return err
		}
		if err := note(!exchange, err, "bind to exchange %q (read)", b.Exchange); err != nil {
			return err
		}
	}
	for _, exchange := range append(e.exchanges(), "") {
		may, err := e.s.MayPublish(ctx, exchange)
		if err := note(may, err, "publish to exchange %q (write)", exchange); err != nil {
			return err
		}
	}
	slices.Sort(refused)
	for _, what := range slices.Compact(refused) {
		e.fault(fmt.Sprintf("user %q may not %s", e.s.On.User(), what), "the broker refuses it when the service tries", e.grant())
	}
	return nil
}

// exchanges are those that the service publishes to, if they exist.
func (e *examination) exchanges() (names []string) {
	absent := map[string]bool{}
	for _, d := range e.plan.Differences {
		absent[d.Name] = true
	}
	for _, x := range e.Want.Exchanges {
		if !absent[x.Name] {
			names = append(names, x.Name)
		}
	}
	return names
}

// grant says which permissions the user needs at least for the topology. It is no command: set_permissions replaces the
// patterns that the user has.
func (e *examination) grant() string {
	const delays = `harebus\.delay\..*`
	var configure, write, read []string
	for _, q := range e.Want.Queues {
		name := regexp.QuoteMeta(q.Name)
		configure, write = append(configure, name), append(write, name)
		if !e.errors[q.Name] {
			read = append(read, name)
		}
	}
	for _, b := range e.Want.Bindings {
		read = append(read, regexp.QuoteMeta(b.Exchange))
	}
	for _, x := range e.Want.Exchanges {
		name := regexp.QuoteMeta(x.Name)
		configure, write = append(configure, name), append(write, name)
	}
	pattern := func(names []string, more ...string) string {
		names = append(names, more...)
		slices.Sort(names)
		return "^(" + strings.Join(slices.Compact(names), "|") + ")$"
	}
	return fmt.Sprintf("add to the patterns that the user has (%s shows them; set_permissions replaces all three, so keep what is there): configure '%s', write '%s', read '%s'",
		strings.Replace(e.ctl("list_user_permissions", e.s.On.User()), " -p "+shell(e.VHost), "", 1), pattern(configure, delays), pattern(write, delays, `amq\.default`), pattern(read, delays))
}

// policies looks at policies that change what the queues do. AMQP does not tell them.
func (e *examination) policies(ctx context.Context) error {
	if e.API == nil {
		return nil
	}
	queues, err := e.API.Queues(ctx)
	if err != nil {
		return err
	}
	for _, want := range e.Want.Queues {
		q := queues[want.Name]
		var keys []string
		for key := range q.Effective {
			if slices.Contains(changing, key) {
				keys = append(keys, key)
			}
		}
		if slices.Sort(keys); len(keys) == 0 {
			e.passed()
			continue
		}
		fix := e.ctl("clear_policy", q.Policy)
		switch {
		case q.Policy == "":
			fix = e.ctl("clear_operator_policy", q.Operator)
		case q.Operator != "":
			fix = fmt.Sprintf("see whether policy %q or operator policy %q sets it (%s; %s), and clear that one", q.Policy, q.Operator, e.ctl("list_policies"), e.ctl("list_operator_policies"))
		}
		what := fmt.Sprintf("a policy sets %s of queue %q", strings.Join(keys, ", "), want.Name)
		if keeps(want) {
			e.fault(what, "an order, a group of readers or the leader of schedules keeps its place in this queue: when the broker drops, moves or takes back what is there, messages are lost or come out of "+
				"their order, and when it refuses more, the next instance cannot take over", fix)
			continue
		}
		e.warn(what, "it takes effect beside the arguments that the service declares, and the service does not see it: messages can be dropped, or leave the queue", fix)
	}
	return nil
}

// changing are the keys of a policy that change what a queue does with messages. RabbitMQ 3.10 does not have the last three.
var changing = []string{
	"expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit", "dead-letter-exchange", "overflow",
	"consumer-timeout", "delayed-retry-type", "delayed-retry-min",
}

// keeps says whether a queue is an ordered one, its parking queue, or that of the tokens of a group of readers or of schedules.
func keeps(q topology.Queue) bool {
	return q.Arguments["x-single-active-consumer"] == true && fmt.Sprint(q.Arguments["x-delivery-limit"]) == strconv.Itoa(topology.LookLimit)
}
