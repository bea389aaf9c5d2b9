package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/parked"
	"github.com/harebus/harebus/seal"
)

// A PikaBus service reads what is signed as ever, and cannot take what is sealed for a message of its own. In its copies for
// retries and for the error queue both stay authentic. What it sends in the clear is refused where it must be protected.
func TestSealsAndPikaBus(t *testing.T) {
	t.Parallel()
	key, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	policy := seal.Policy{Types: []string{"PlaceOrder"}, Headers: []string{"tenant"}}
	for _, g := range generations {
		for kind, guard := range map[string]harebus.Guard{"sealed": seal.New(keys, policy), "signed": seal.Sign(keys, policy)} {
			t.Run(string(g)+"/"+kind, func(t *testing.T) {
				t.Parallel()
				sealsAndPikaBus(shared(t), g, kind == "signed", guard)
			})
		}
	}
}

func sealsAndPikaBus(p *place, g generation, readable bool, guard harebus.Guard) {
	p.Helper()
	peer := p.peer(g, p.queue("peer"))
	cfg := p.config("ours")
	cfg.Payload.Guards = []harebus.Guard{guard}
	if g == pika1 {
		cfg.Payload.TimeFormat = harebus.TimeLegacy
	}
	ours := p.setup(cfg)
	replies := newInbox()
	ours.HandleMessage("Golden.Reply", replies.take)
	ours.HandleMessage("PlaceOrder", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		p.Errorf("handled in the clear: %s", m.Body)
		return nil
	})
	p.start(ours)
	p.try(ours.Bus().Send(p.Context(), peer.queue, placeOrder{ID: 1}, harebus.WithHeader("tenant", "blue")))
	got, _ := peer.next()
	var order placeOrder
	switch err := json.Unmarshal(got.Body, &order); {
	case readable && (err != nil || order.ID != 1):
		p.Errorf("the peer read %+v, %v in %q", order, err, got.Body)
	case !readable && (err == nil || bytes.Contains(got.Body, []byte("id"))):
		p.Errorf("the peer read %+v in %q", order, got.Body)
	case readable:
		peer.reply(got, map[string]any{"answer": 42})
		replies.await(p, 1)
	}

	peer.fail(got, 3, 10*time.Millisecond)
	copied, _ := peer.next()
	peer.resend(cfg.ErrorQueue.Name, copied, nil)
	left := peer.broker.take(cfg.ErrorQueue.Name, 1)[0]
	id, payload := parked.Read("PikaBus.", &left, peer.queue)
	if err := guard.Admit(p.Context(), id, payload); err != nil || string(payload.Body) != `{"id":1}` {
		p.Errorf("the peer parked what opens to %q, %v", payload.Body, err)
	}

	peer.send(cfg.Queue, typed(peer.message("send", placeOrder{ID: 2}), "PlaceOrder"))
	refused := peer.broker.take(cfg.ErrorQueue.Name, 1)[0]
	if details := fmt.Sprint(refused.Headers["PikaBus.ErrorDetails"]); !strings.HasPrefix(details, "in-the-clear") {
		p.Errorf("refused for %q", details)
	}
}
