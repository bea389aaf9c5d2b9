//go:build celery

package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/harebus/harebus"
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
