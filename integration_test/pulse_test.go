package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/pulse"
)

// users makes users of this place with their patterns: configure, write, read.
func (p *place) users(patterns map[string][3]string) {
	p.Helper()
	var add, drop []string
	for name, x := range patterns {
		user := p.name + name
		add = append(add, fmt.Sprintf(`rabbit_auth_backend_internal:add_user(<<"%s">>, <<"secret">>, <<"test">>)`, user),
			fmt.Sprintf(`rabbit_auth_backend_internal:set_permissions(<<"%s">>, <<"%s">>, <<"%s">>, <<"%s">>, <<"%s">>, <<"test">>)`, user, p.name, x[0], x[1], x[2]))
		drop = append(drop, fmt.Sprintf(`rabbit_auth_backend_internal:delete_user(<<"%s">>, <<"test">>)`, user))
	}
	p.ctl("eval", strings.Join(add, ", ")+".")
	p.Cleanup(func() {
		if _, err := p.node.Ctl(context.Background(), "eval", strings.Join(drop, ", ")+"."); err != nil {
			p.Error(err)
		}
	})
}

// pulsing starts a service that answers as a user, and returns its log and what Serve returns.
func (p *place) pulsing(user, queue string, c pulse.Config) (*harebus.Setup, *observer.ObservedLogs, <-chan error) {
	p.Helper()
	core, log := observer.New(zapcore.InfoLevel)
	cfg := p.config(queue)
	cfg.URL, cfg.Logger = p.withUser(p.name+user, "secret"), zap.New(core)
	s, err := pulse.New(c)
	p.try(err)
	s.Use(&cfg)
	setup, _ := p.service(cfg)
	ctx, cancel := context.WithCancel(p.Context())
	served := make(chan error, 1)
	ended := make(chan struct{})
	go func() { defer close(ended); served <- s.Serve(ctx, setup) }()
	p.Cleanup(func() { cancel(); <-ended })
	return setup, log, served
}

func (p *place) asking(user string) *pulse.Client {
	p.Helper()
	c, err := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{p.withUser(p.name+user, "secret")}}, Patience: 5 * time.Second, From: "ann@ops1"})
	p.try(err)
	p.Cleanup(c.Close)
	return c
}

// peeks looks at the first messages of a queue of each type, several times.
func (o *operator) peeks() {
	b := o.broker()
	for name, args := range map[string]amqp.Table{"parked": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}, "plain": {"x-queue-type": "classic"}} {
		b.declareQueue(name, args)
		var all []amqp.Publishing
		for i := range 20 {
			all = append(all, amqp.Publishing{MessageId: fmt.Sprintf("m%02d", i), DeliveryMode: amqp.Persistent})
		}
		b.publishAll(name, all)
		for range 2 {
			if output := o.ends(0, []string{"peek", "-n", "3", name}, "20 messages ready", "m00", "m02"); strings.Contains(output, "m03") {
				o.Errorf("printed %s", output)
			}
		}
		for i, d := range b.take(name, 20) {
			if d.MessageId != all[i].MessageId {
				o.Errorf("%s: at place %d is %s", name, i, d.MessageId)
			}
		}
	}
	b.declareQueue("served", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": 20})
	o.ends(1, []string{"peek", "served"}, "its delivery limit is 20")
}

// The permissions that docs/pulse.md names suffice to answer, to ask, to take and to give orders; nobody else gives any. A
// service without them works.
func TestPulse(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	const pulses, both, nothing, others = `^harebus\\.pulse`, `^harebus\\.(pulse|control)`, `^$`, `^(?!harebus\\.)` // others is all that a service needs beside
	p.users(map[string][3]string{
		"plain": {others, others, others},
		"says":  {others + `|` + pulses, others + `|` + pulses, others + `|` + pulses},
		"takes": {others + `|` + both, others + `|` + both, others + `|` + both},
		"asks":  {nothing, pulses + `$`, nothing},
		"gives": {nothing, both + `$`, nothing},
	})
	plain, log, served := p.pulsing("plain", "plain", pulse.Config{Control: true})
	if err := <-served; err == nil || !strings.Contains(err.Error(), "ACCESS_REFUSED") {
		t.Errorf("serve without a permission: %v", err)
	}
	if n := log.FilterMessageSnippet("nobody can ask this instance").Len(); n != 1 {
		t.Errorf("said %d times", n)
	}
	p.try(plain.Bus().Send(p.within(patience), plain.Queue(), note{1}))
	p.eventually(patience, func() error {
		if n := plain.Stats().Handled; n != 1 {
			return fmt.Errorf("%d messages handled", n)
		}
		return nil
	})
	p.pulsing("says", "says", pulse.Config{})
	takes, log, _ := p.pulsing("takes", "takes", pulse.Config{Control: true})

	asks, gives := p.asking("asks"), p.asking("gives")
	var round *pulse.Round
	p.eventually(patience, func() (err error) {
		if round, err = asks.Ask(p.Context(), pulse.Target{}); err == nil && len(round.Answers) != 2 {
			err = fmt.Errorf("answers %+v", round)
		}
		return err
	})
	for _, a := range round.Answers {
		if len(a.Queues) != 1 || a.NotReady != "" || a.Ahead.Abs() > 5*time.Second {
			t.Errorf("answer %+v", a)
		}
	}
	pause := pulse.Order{Do: pulse.Pause, Queue: takes.Queue()}
	if _, err := asks.Control(p.Context(), pulse.Target{Queue: takes.Queue()}, pause); err == nil || !strings.Contains(err.Error(), `may not write to the exchange "harebus.control"`) {
		t.Errorf("an order of somebody who may only ask: %v", err)
	}
	if takes.Stats().Paused {
		t.Error("it was carried out")
	}
	round, err := gives.Control(p.Context(), pulse.Target{}, pause)
	p.try(err)
	if len(round.Answers) != 1 || round.Answers[0].Refused != "" || !takes.Stats().Paused {
		t.Errorf("an order: %+v, paused %v", round, takes.Stats().Paused)
	}
	if all := log.FilterMessageSnippet("gave an order").All(); len(all) != 1 || all[0].ContextMap()["user"] != p.name+"gives" {
		t.Errorf("logged %+v", all)
	}
	p.try(errors.Join(takes.Ready(), takes.Resume()))
	newOperator(p, 0).peeks()
}
