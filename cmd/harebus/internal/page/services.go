package page

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/pulse"
	"github.com/harebus/harebus/topology"
)

// fleet is what services say.
type fleet struct {
	At    time.Time
	State *services.State
	Lines []services.Line // a queue of a service each
	Notes []string
	Queue string // the one that is shown; then there are also Instances and Types
	Rows  []row
	Types []kind
	Error *pulse.Waiting // the error queue
}

// row is a queue of an instance.
type row struct {
	*pulse.Answer

	Queue *pulse.Queue
}

// Condition is whether the instance consumes.
func (r row) Condition() string { return services.Condition(r.Answer, r.Queue) }

// Up is for how long the instance runs.
func (r row) Up() string { return services.Short(r.Clock.Sub(r.Started)) }

// kind is a type of messages of a queue, in all instances together.
type kind struct {
	Name string
	All  harebus.MessageStats
}

// services shows what the instances of services say: all of them, or those of one queue.
func (s *Server) services(w http.ResponseWriter, r *http.Request) {
	f := &fleet{At: time.Now(), Queue: strings.TrimSpace(r.FormValue("queue"))}
	if f.Queue != "" {
		if err := topology.ValidName("queue", f.Queue); err != nil {
			s.write(w, r, http.StatusBadRequest, "services", view{Title: "Services", Fault: err.Error(), Body: &fleet{State: &services.State{Round: &pulse.Round{}}, At: f.At, Queue: f.Queue}})
			return
		}
	}
	err := s.asking(r.Context(), func(ctx context.Context, a *services.Asker) error { return s.survey(ctx, a, f) })
	if err != nil {
		s.broker(w, r, err)
		return
	}
	title := "Services"
	if f.Queue != "" {
		title = "Services at queue " + f.Queue
	}
	s.write(w, r, http.StatusOK, "services", view{Title: title, Body: f})
}

// asking calls fn with an asker of its own.
func (s *Server) asking(ctx context.Context, fn func(context.Context, *services.Asker) error) error {
	a, err := services.Open(s.cfg.Services)
	if err != nil {
		return err
	}
	defer a.Close()
	ctx, cancel := a.Bounded(ctx)
	defer cancel()
	return fn(ctx, a)
}

// survey asks.
func (s *Server) survey(ctx context.Context, a *services.Asker, f *fleet) (err error) {
	if f.Queue != "" {
		if f.State, err = a.Look(ctx, []string{f.Queue}); err != nil {
			return err
		}
		f.Lines = new(services.Watch).Lines(f.State)
		f.detail()
	} else {
		if f.State, err = a.Look(ctx, nil, append(slices.Clone(s.cfg.ServiceQueues), s.cfg.Errors.Name)...); err != nil {
			return err
		}
		failed := f.State.Waiting[s.cfg.Errors.Name]
		f.Error = &failed
		f.State.Expect(s.cfg.ServiceQueues)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Queue == "" {
		f.Lines = s.watch.Lines(f.State)
		if f.State.Refused == nil {
			s.watch.Remember(f.State)
		}
		f.Notes = s.watch.Missed()
	}
	f.Notes = slices.Concat(f.State.MoreConsumers(), f.State.Unanswered(), f.State.Untold(), f.Notes, f.State.Remarks())
	if n := f.State.Round.Unreadable; n > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("▲ %d answers could not be read", n))
	}
	return nil
}

// detail shows each instance of the queue, and each type.
func (f *fleet) detail() {
	types := map[string]*kind{}
	for i := range f.State.Round.Answers {
		a := &f.State.Round.Answers[i]
		for j := range a.Queues {
			q := &a.Queues[j]
			f.Rows = append(f.Rows, row{a, q})
			for name, of := range q.Types {
				if types[name] == nil {
					types[name] = &kind{Name: name}
				}
				services.Add(&types[name].All, &of)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		f.Types = append(f.Types, *types[name])
	}
}

// Instances is how many have answered.
func (f *fleet) Instances() int { return len(f.State.Round.Answers) }

// InHand is how many messages of the queue the instances have, of all services that share it.
func (f *fleet) InHand() (n int64) {
	for i := range f.Lines {
		n += f.Lines[i].InHand
	}
	return n
}

// Takers is how many instances take orders.
func (f *fleet) Takers() int { return f.State.Takers() }

// command is an order that the operator is to confirm.
type command struct {
	Do, Queue, Instance string
	Number              string          // that was typed for a limit; empty for other orders
	There               *services.State // nil if they could not be asked
}

// orders are those that the page gives, as headings and buttons say them.
var orders = map[string]string{pulse.Pause: "Pause", pulse.Resume: "Resume", pulse.Concurrency: "Set concurrency of", pulse.Rate: "Set rate of"}

// Button is the order for a button; empty if there is no such order.
func (c *command) Button() string { return orders[c.Do] }

// Verb is the order for a heading.
func (c *command) Verb() string { return c.Button() + " queue " + c.Queue }

// order is what the instances are told. An error says what is wrong with the number.
func (c *command) order() (o pulse.Order, err error) {
	o = pulse.Order{Do: c.Do, Queue: c.Queue}
	switch c.Do {
	case pulse.Concurrency:
		if o.Concurrency, err = strconv.Atoi(c.Number); err != nil || o.Concurrency < 1 {
			err = fmt.Errorf("%q is not a number of messages from 1", c.Number)
		}
	case pulse.Rate:
		if o.Rate, err = strconv.ParseFloat(c.Number, 64); err != nil || !(o.Rate >= 0) || math.IsInf(o.Rate, 0) {
			err = fmt.Errorf("%q is not a number of messages a second; 0 ends the limit", c.Number)
		}
	}
	return o, err
}

// Back is the address of the queue.
func (c *command) Back() string { return "/services?queue=" + url.QueryEscape(c.Queue) }

// order shows what an order is about, and gives it when the operator has typed how many instances get it.
func (s *Server) order(w http.ResponseWriter, r *http.Request) {
	c := &command{Do: r.FormValue("do"), Queue: r.FormValue("queue"), Instance: r.FormValue("instance"), Number: strings.TrimSpace(r.PostFormValue("number"))}
	if c.Do != pulse.Concurrency && c.Do != pulse.Rate {
		c.Number = ""
	}
	if c.Button() == "" || topology.ValidName("queue", c.Queue) != nil {
		s.fault(w, r, http.StatusBadRequest, "There is no such order", "Nothing was done.")
		return
	}
	var done *services.Outcome
	began, fault := time.Now(), ""
	err := s.asking(r.Context(), func(ctx context.Context, a *services.Asker) (err error) {
		if c.There, err = a.Find(ctx, c.Queue, c.Instance); err != nil || r.Method != http.MethodPost {
			return err
		}
		o, wrong := c.order()
		n := strconv.Itoa(c.There.Takers())
		switch {
		case wrong != nil:
			fault = wrong.Error() + ". Nothing was done."
		case strings.TrimSpace(r.PostFormValue("count")) != n:
			fault = "The number of instances is not " + n + ". Nothing was done."
		default:
			done, err = a.Order(ctx, c.There, c.Instance, o)
		}
		return err
	})
	switch {
	case err != nil && done == nil && r.Method == http.MethodPost && c.There != nil: // the order itself has failed
		s.fault(w, r, http.StatusBadGateway, "That did not work", "It is not known whether an instance has got the order: "+err.Error()+".")
	case err != nil:
		s.fault(w, r, http.StatusConflict, "No order can be given", err.Error()+". Nothing was done.")
	case done != nil:
		http.Redirect(w, r, "/actions/"+s.ordered(c, done, began).ID, http.StatusSeeOther)
	case fault != "":
		s.write(w, r, http.StatusUnprocessableEntity, "order", view{Title: c.Verb(), Fault: fault, Body: c})
	default:
		s.write(w, r, http.StatusOK, "order", view{Title: c.Verb(), Body: c})
	}
}

// ordered keeps what has become of an order, as an action that has ended.
func (s *Server) ordered(c *command, done *services.Outcome, began time.Time) *run {
	verb := c.Verb()
	if c.Number != "" {
		verb += " to " + c.Number
	}
	one := &run{
		ID: rand.Text(), Do: c.Do, Verb: verb, Count: c.There.Takers(), Path: c.Back(), Began: began, Ended: time.Now(),
		stop: func() {}, done: make(chan struct{}), Err: done.Err(), Results: done.Results(), Notes: c.There.MoreConsumers(),
	}
	close(one.done)
	for i := range done.Done.Answers {
		if done.Done.Answers[i].Refused == "" {
			one.Report.Done++
		}
	}
	s.keep(one)
	return one
}
