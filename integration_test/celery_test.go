//go:build celery

package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
	"github.com/harebus/harebus/seal"
)

// TestCelery: a service of Celery reads what is plain or signed, and what is compressed or sealed is an error for it and never
// another message. Its own tasks are handled, plain and compressed.
func TestCelery(t *testing.T) {
	t.Parallel()
	p := shared(t)
	tasks := newInbox()
	s := p.setup(celeryConfig(p))
	s.HandleMessage("orders.place", tasks.take)
	p.start(s)

	cmd := exec.CommandContext(p.within(2*patience), "../scripts/celery", "testdata/peer_celery.py", p.url, p.queue("ours"), p.queue("peers"), "4")
	out, err := cmd.StdoutPipe()
	p.try(err)
	var failures bytes.Buffer
	cmd.Stderr = &failures
	p.try(cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		_, _ = io.Copy(io.Discard, out) // it is at its end
		p.Fatalf("Celery said %q, %v\n%s", lines.Text(), cmd.Wait(), failures.String())
	}
	for i, change := range []func(*harebus.Config){
		func(*harebus.Config) {},
		func(cfg *harebus.Config) { cfg.Payload.Guards = []harebus.Guard{seal.Sign(ownKeys(p), everyType)} },
		func(cfg *harebus.Config) {
			cfg.Payload.Compress = harebus.CompressConfig{With: harebus.Gzip{}, From: 1}
		},
		func(cfg *harebus.Config) { cfg.Payload.Guards = []harebus.Guard{seal.New(ownKeys(p), everyType)} },
	} {
		cfg := p.config("")
		change(&cfg)
		order := map[string]any{"text": strings.Repeat("all work and no play ", 10)}
		p.try(p.setup(cfg).Bus().Send(p.Context(), p.queue("peers"), order, harebus.WithType("Order"), harebus.WithMessageID(fmt.Sprint(i))))
	}
	text := `{"text": "` + strings.Repeat("all work and no play ", 10) + `"}`
	var got []string
	for lines.Scan() {
		got = append(got, lines.Text())
	}
	want := []string{
		`{"id": "0", "payload": ` + text + `, "signed": false}`,
		`{"id": "1", "payload": ` + text + `, "signed": true}`,
		`{"id": "2", "payload": "DecodeError", "signed": false}`,
		`{"id": "3", "payload": "ContentDisallowed", "signed": false}`,
	}
	if err := cmd.Wait(); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		p.Errorf("Celery read, %v:\n%s\nwant\n%s\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"), failures.String())
	}
	for i, task := range tasks.await(p, 2) {
		by := []string{"plain", "gzip"}[i]
		if string(task.Body) != `[[{"id": 7}], {"by": "`+by+`"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]` {
			p.Errorf("the %s task is %s", by, task.Body)
		}
	}
}

var everyType = seal.Policy{Types: []string{"*"}}

func ownKeys(p *place) seal.Keys {
	p.Helper()
	key, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
	p.try(err)
	keys, err := seal.NewKeyring(key)
	p.try(err)
	return keys
}

// celeryConfig takes the name and the compression of a task from its headers.
func celeryConfig(p *place) harebus.Config {
	p.Helper()
	cfg := p.config("ours")
	cfg.Handling.Receive = func(_ context.Context, m *harebus.Message) (err error) {
		m.Type, _ = m.Headers["task"].(string)
		if m.Headers["compression"] == "application/x-gzip" {
			m.Body, err = (harebus.Gzip{}).Decompress(m.Body, 1<<20)
		}
		if err == nil && !json.Valid(m.Body) {
			err = fmt.Errorf("the body of the task is %q", m.Body)
		}
		return err
	}
	cfg.Consume.Concurrency = 1
	return cfg
}

// stock is the message of the tasks stock.check and stock.move of the peer, and left their result.
type (
	stockCheck struct {
		ID int `json:"id"`
	}
	stockMove struct {
		ID  int    `json:"id"`
		To  string `json:"to,omitempty"`
		Why string `json:"why,omitempty"`
	}
	stockLeft struct{ ID, Left int }
)

func (stockCheck) MessageType() string { return "CheckStock" }
func (stockMove) MessageType() string  { return "MoveStock" }
func (stockLeft) MessageType() string  { return "StockLeft" }

// TestCeleryDialect: tasks of a client are handled as messages, with their times and compressed; messages are run by a worker, whether they
// are one argument or several; and with rpc:// results and failures come back in both directions.
func TestCeleryDialect(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"rpc://", "disabled://"} {
		t.Run(backend[:3], func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			results := backend == "rpc://"
			d := celery.New(celery.Config{
				Types:      dialect.Types{"PlaceOrder": "orders.place", "MoveOrder": "orders.move", "CheckStock": "stock.check", "MoveStock": "stock.move"},
				Parameters: map[string][]string{"MoveOrder": {"id", "to="}, "MoveStock": {"id", "to="}},
				Results:    results,
			})
			cfg := p.config("ours")
			cfg.Payload.Dialects, cfg.Publish.Peers = []dialect.Dialect{d}, map[string]dialect.Dialect{p.queue("peers"): d}
			cfg.Retry.MaxRetries = 1
			tasks := newInbox()
			s := p.setup(cfg)
			s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				var order struct{ ID int }
				if err := json.Unmarshal(m.Body, &order); err != nil {
					return err
				}
				switch {
				case order.ID == 13:
					return errors.New("no stock")
				case order.ID == 7:
					return errors.Join(bus.Reply(ctx, map[string]int{"left": 3}), tasks.take(ctx, bus, m))
				}
				return tasks.take(ctx, bus, m)
			})
			p.start(s)
			worker, client := startCelery(p, "worker", p.queue("peers"), backend), startCelery(p, "client", p.queue("ours"), backend)

			handled, parked := 5, 1 // one of the six has expired
			if results {
				handled, parked = 6, 2 // the handler fails for another
			}
			got := map[string]bool{}
			for _, m := range tasks.await(p, handled) {
				got[m.Type+" "+string(m.Body)] = true
				if wait := time.Until(m.DeferredUntil); wait > 0 {
					p.Errorf("%s came %v early", m.Body, wait)
				}
			}
			want := []string{
				`PlaceOrder {"id": 1, "backend": "` + backend + `"}`, `MoveOrder {"id":2,"to":"Oslo"}`, `PlaceOrder {"id": 3}`, `PlaceOrder {"id": 4}`,
				`PlaceOrder {"id": 5, "at": "2026-06-28T09:25:56+02:00", "price": "12.50", "of": "00000000-0000-0000-0000-000000000005"}`,
			}
			if results {
				want = append(want, `PlaceOrder {"id": 7}`)
				client.is(`{"result": {"left": 3}, "id": 7}`, `{"result": "Exception: no stock", "id": 13}`)
			}
			for _, one := range want {
				if !got[one] {
					p.Errorf("the task %s is not among %v", one, got)
				}
			}
			b := p.broker()
			p.eventually(patience, func() error {
				if q, err := b.look(p.queue("error")); err != nil || q.Messages != parked {
					return fmt.Errorf("%d tasks are parked, %w", q.Messages, err)
				}
				return nil
			})

			queue := p.queue("peers")
			worker.is(`{"ready": true}`)
			send := func(message any, id string) {
				p.try(s.Bus().Send(p.Context(), queue, message, harebus.WithMessageID(id), harebus.WithCorrelationID("root"), harebus.WithExpiration(time.Hour)))
			}
			send(stockCheck{1}, "first")
			send(stockMove{2, "Oslo", "sale"}, "second")
			send(stockMove{3, "", ""}, "third")
			worker.is(
				`{"task": "stock.check", "arguments": {"order": {"id": 1}}, "id": "first", "root": "root", "expires": false}`,
				`{"task": "stock.move", "arguments": {"id": 2, "to": "Oslo", "why": "sale"}, "id": "second", "root": "root", "expires": false}`,
				`{"task": "stock.move", "arguments": {"id": 3, "to": null}, "id": "third", "root": "root", "expires": false}`,
			)
			if results {
				p.asksCelery(s.Bus(), queue)
			}
		})
	}
}

// asksCelery requests results from the worker.
func (p *place) asksCelery(bus *harebus.Bus, queue string) {
	p.Helper()
	left, err := harebus.Request[stockLeft](p.within(patience), bus, queue, stockCheck{7})
	if want := (stockLeft{7, 3}); err != nil || left != want {
		p.Errorf("the worker answers %+v, %v", left, err)
	}
	left, err = harebus.Request[stockLeft](p.within(patience), bus, queue, stockMove{8, "retry", ""})
	if want := (stockLeft{8, 1}); err != nil || left != want {
		p.Errorf("the worker answers at its second attempt %+v, %v", left, err)
	}
	_, err = harebus.Request[stockLeft](p.within(patience), bus, queue, stockCheck{13})
	var fault *harebus.FaultError
	if !errors.As(err, &fault) || fault.Reason != "ValueError" || fault.Details != "no stock" {
		p.Errorf("the worker fails with %v", err)
	}
}

// celeryPeer is a running Celery.
type celeryPeer struct {
	*place
	lines *bufio.Scanner
	said  *bytes.Buffer
}

func startCelery(p *place, role, queue, backend string) *celeryPeer {
	p.Helper()
	cmd := exec.CommandContext(p.within(2*patience), "../scripts/celery", "testdata/peer_celery_tasks.py", role, p.url, queue, backend)
	out, err := cmd.StdoutPipe()
	p.try(err)
	in, err := cmd.StdinPipe()
	p.try(err)
	var failures bytes.Buffer
	cmd.Stderr = &failures
	p.try(cmd.Start())
	p.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	b := p.broker()
	p.Cleanup(func() { b.deleteQueue(p.queue("peers")) })
	return &celeryPeer{p, bufio.NewScanner(out), &failures}
}

// is expects lines, in any order.
func (c *celeryPeer) is(want ...string) {
	c.Helper()
	left := map[string]bool{}
	for _, line := range want {
		left[line] = true
	}
	for range want {
		if !c.lines.Scan() {
			c.Fatalf("Celery has ended: %v\n%s", c.lines.Err(), c.said)
		}
		if line := c.lines.Text(); !left[line] {
			c.Errorf("Celery says %s, want one of %q", line, want)
		}
		delete(left, c.lines.Text())
	}
}
