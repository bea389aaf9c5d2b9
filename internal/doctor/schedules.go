package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// answer is how long the leader of schedules may take to answer. A takeover takes two heartbeats.
const answer = 20 * time.Second

// tokens says whether a queue holds the tokens of recurring schedules. Only such a queue may be asked.
func (e *examination) tokens(q topology.Queue) bool {
	single, _ := q.Arguments["x-single-active-consumer"].(bool)
	return scheduled.Holds(q) || single && q.Name == e.Tokens
}

// schedules looks at the recurring schedules of the service.
func (e *examination) schedules(ctx context.Context) error {
	for _, want := range e.Want.Queues {
		found := e.plan.Queues[want.Name]
		if !e.tokens(want) || !found.Exists || found.Hidden != "" {
			continue
		}
		if err := e.lead(ctx, found); ctx.Err() != nil {
			return err
		} else if err != nil {
			e.unchecked("the recurring schedules of queue %q: %v", want.Name, err)
		}
	}
	return nil
}

// lead asks the leader, and reports if there is none.
func (e *examination) lead(ctx context.Context, queue survey.Queue) error {
	asking, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	client := scheduled.Client{Link: e.Link, Bus: e.Bus, Queue: queue.Name}
	state, err := client.Look(asking)
	switch {
	case err != nil && asking.Err() != nil && ctx.Err() == nil:
		e.fault(fmt.Sprintf("nobody leads the schedules of queue %q: its %d consumers do not answer", queue.Name, queue.Consumers), "no due time is fired",
			e.ctl("list_consumers")+"   (shows the active consumer of the queue: stop it, or restart the instance that it belongs to)")
		return nil
	case err != nil:
		return err
	case state.Leader == "":
		e.fault(fmt.Sprintf("no instance leads the schedules of queue %q", queue.Name),
			fmt.Sprintf("none of its %d schedules is fired before an instance runs; then what was due is caught up, as far as CatchUp says", len(state.Tokens)), "start the service")
	default:
		e.passed()
	}
	for i := range state.Tokens {
		e.token(queue.Name, state, &state.Tokens[i])
	}
	return nil
}

// token reports what is wrong with a schedule.
func (e *examination) token(queue string, state *scheduled.State, t *scheduled.Token) {
	remove := "harebus schedule rm "
	service, named := strings.CutSuffix(queue, scheduled.Suffix)
	if !named {
		remove += "-tokens " + shell(queue) + " "
	}
	remove += shell(service) + " " + shell(t.Name)
	object := fmt.Sprintf("schedule %q of queue %q", t.Name, queue)
	now := e.Now()
	switch {
	case state.Undefined(t):
		e.warn(object+" is not defined by the version of the service that leads", "it is not fired; its token goes when no version has defined it for 30 days",
			remove+"   (if no version of the service has it any more)")
	case t.Future(now):
		e.fault(fmt.Sprintf("%s has a watermark in the future, %s", object, t.Last.UTC().Format(time.RFC3339)), "it is not fired before that time; the clock of an instance was wrong", remove)
	case t.Overdue(now) && state.Leader == "":
		e.fault(fmt.Sprintf("%s was due at %s", object, t.Next.UTC().Format(time.RFC3339)), "no instance runs that could fire it", "start the service")
	case t.Overdue(now):
		e.fault(fmt.Sprintf("%s was due at %s, and its leader has not fired it", object, t.Next.UTC().Format(time.RFC3339)),
			"the queue of the service takes no message, because it is full or gone; or the clock of the leader is behind",
			"harebus topology apply "+shell(e.File)+"   (makes the queue if it is gone; if it is full, start more instances, which handle what is in it)")
	default:
		e.passed()
	}
}
