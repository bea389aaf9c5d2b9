package consume

import (
	"encoding/json"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
)

// obey does what an operator has said about keys that are held.
func (t *tenure) obey(d *Delivery, n lanes.Note) {
	d.feed.acks.Done(d.Raw.DeliveryTag)
	d.feed.acks.Flush() // before what it has done can end the process
	if n.Kind == lanes.List {
		t.list(d)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	done := 0
	for _, key := range t.lanes.Keys() {
		if m := t.lanes.Held(key.Key); m != nil && (n.About == key.Key || n.About == lanes.All) && t.decide(m, n.Kind) {
			done++
		}
	}
	log := t.c.log.Info
	if done == 0 {
		log = t.c.log.Warn
	}
	log("the word of an operator about keys that are held", zap.String("word", n.Kind), zap.String("key", n.About), zap.Int("messages", done))
}

// decide carries a word out. mu is held.
func (t *tenure) decide(m *lanes.Message, word string) bool {
	switch word {
	case lanes.Retry:
		t.acquit(m.ID)
		t.lanes.Release(m)
	case lanes.Discard:
		t.acquit(m.ID)
		settle(m)
		t.lanes.Discard(m)
		t.c.log.Warn("a message that held its key is discarded, as an operator has said", zap.String("message_id", m.ID), zap.String("key", m.Key))
	default:
		return false
	}
	return true
}

// list answers the question which keys are parked.
func (t *tenure) list(d *Delivery) {
	t.mu.Lock()
	body, err := json.Marshal(t.parked())
	t.mu.Unlock()
	if err == nil && d.Raw.ReplyTo != "" {
		t.notes.Go(func() { err = t.c.cfg.Answer(t.ctx, d.Raw.ReplyTo, d.Raw.CorrelationId, body) })
	}
	if err != nil {
		t.c.log.Warn("cannot answer which keys are parked", zap.Error(err))
	}
}

// parked are the keys that are parked. mu is held.
func (t *tenure) parked() []lanes.Parked {
	all := []lanes.Parked{}
	for _, key := range t.lanes.Keys() {
		if d, ok := key.First.Of.(*Delivery); ok {
			all = append(all, lanes.Describe(key, d.Raw.Headers, &t.cfg.Names))
		}
	}
	return all
}
