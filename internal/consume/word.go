package consume

import (
	"encoding/json"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/order"
)

// obey does what an operator has said about keys that are held.
func (t *tenure) obey(d *Delivery, n lanes.Note) {
	d.feed.acks.Done(d.Raw.DeliveryTag) // it is sent before the message is handled: see announce
	if n.Kind == lanes.List {
		t.answer(d, t.parked())
		return
	}
	t.answer(d, t.follow(n))
}

// follow does what an operator has said, and returns for how many messages.
func (t *tenure) follow(n lanes.Note) (done int) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
	return done
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

// answer answers an operator who waits for it.
func (t *tenure) answer(d *Delivery, result any) {
	if d.Raw.ReplyTo == "" {
		return
	}
	t.notes.Go(func() {
		body, err := json.Marshal(result)
		if err == nil {
			err = t.c.cfg.Answer(t.ctx, d.Raw.ReplyTo, d.Raw.CorrelationId, body)
		}
		if err != nil {
			t.c.log.Warn("cannot answer an operator", zap.Error(err))
		}
	})
}

// parked are the keys that are parked.
func (t *tenure) parked() []order.Parked {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []order.Parked{}
	for _, key := range t.lanes.Keys() {
		if d, ok := key.First.Of.(*Delivery); ok {
			again := amqp.Delivery{Body: d.Packed}
			_ = wire.Unpack(&again) // it could be before; a handler may be changing the headers that it was given
			all = append(all, lanes.Describe(key, again.Headers, &t.cfg.Names))
		}
	}
	return all
}
