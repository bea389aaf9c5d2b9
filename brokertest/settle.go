package brokertest

import (
	"cmp"
	"slices"
	"strings"
)

// outcome is what a consumer does with a delivery.
type outcome int

const (
	acked outcome = iota
	requeued
	rejected
)

// settleCommand runs an acknowledgement of any kind.
func (ch *channel) settleCommand(m method) *amqpError {
	switch m := m.(type) {
	case *basicAck:
		return ch.settle(m.deliveryTag, m.multiple, acked)
	case *basicNack:
		return ch.settle(m.deliveryTag, m.multiple, outcomeOf(m.requeue))
	case *basicReject:
		return ch.settle(m.deliveryTag, false, outcomeOf(m.requeue))
	case *basicRecoverAsync:
		return ch.recover(m.requeue)
	case *basicRecover:
		if err := ch.recover(m.requeue); err != nil {
			return err
		}
		return ch.respond(&basicRecoverOk{})
	}
	return errCommandInvalid("unimplemented method")
}

func outcomeOf(requeue bool) outcome {
	if requeue {
		return requeued
	}
	return rejected
}

// settle ends one delivery, or all up to a tag; tag 0 with multiple means all.
func (ch *channel) settle(tag uint64, multiple bool, o outcome) *amqpError {
	if o != acked && !ch.broker().cfg.modernStreams && ch.readsStream() {
		return errNotImplemented("basic.nack not supported by stream queues")
	}
	var ds []*delivery
	i, ok := slices.BinarySearchFunc(ch.unacked, tag, func(d *delivery, tag uint64) int {
		switch {
		case d.tag < tag:
			return -1
		case d.tag > tag:
			return 1
		}
		return 0
	})
	switch {
	case tag == 0 && multiple:
		ds, ch.unacked = ch.unacked, nil
	case !ok:
		return errPrecondition("unknown delivery tag %d", tag)
	case multiple:
		ds = ch.unacked[:i+1]
		ch.unacked = ch.unacked[i+1:]
	case i == 0:
		ds = ch.unacked[:1]
		ch.unacked = ch.unacked[1:]
	default:
		ds = []*delivery{ch.unacked[i]}
		ch.unacked = slices.Delete(ch.unacked, i, i+1)
	}
	for _, d := range inTurn(ds) {
		if ch.tx != nil {
			ch.tx.settled = append(ch.tx.settled, settlement{d, o})
		} else {
			d.settle(o)
		}
	}
	return nil
}

// readsStream says whether something unacknowledged on the channel is from a stream.
func (ch *channel) readsStream() bool {
	return slices.ContainsFunc(ch.unacked, func(d *delivery) bool { return d.queue.log != nil })
}

// settle takes a delivery off its queue.
func (d *delivery) settle(o outcome) {
	d.channel.untrack(d)
	if d.queue.deleted {
		return
	}
	switch {
	case d.queue.log != nil:
	case o == requeued:
		d.queue.requeue(d.entry, false)
	case o == rejected:
		d.queue.deadLetter(d.entry, reasonRejected)
	}
	if d.consumer != nil && d.channel.globalPrefetch > 0 {
		d.channel.touchQueues()
	}
}

// recover requeues everything unacknowledged.
func (ch *channel) recover(requeue bool) *amqpError {
	if !requeue {
		return errNotImplemented("requeue=false")
	}
	ds := ch.unacked
	ch.unacked = nil
	for _, d := range inTurn(ds) {
		d.settle(requeued)
	}
	return nil
}

// inTurn returns deliveries in the order RabbitMQ settles them in: by queue,
// then those of basic.get, then consumer by consumer.
func inTurn(ds []*delivery) []*delivery {
	if len(ds) < 2 {
		return ds
	}
	ds = slices.Clone(ds)
	slices.SortStableFunc(ds, func(a, b *delivery) int {
		return cmp.Or(strings.Compare(a.queue.name, b.queue.name), strings.Compare(a.consumerTag(), b.consumerTag()))
	})
	return ds
}

// consumerTag is empty after basic.get.
func (d *delivery) consumerTag() string {
	if d.consumer == nil {
		return ""
	}
	return d.consumer.tag
}
