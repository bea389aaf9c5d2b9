package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/internal/wire"
)

// alarm publishes a message to nowhere, on a connection of its own: a broker in alarm answers
// with connection.blocked and then reads nothing more.
func (e *examination) alarm(ctx context.Context) error {
	if _, err := e.Link.Session(ctx); err != nil {
		return err
	}
	on, err := e.Link.Extra(ctx, "alarm")
	if err != nil {
		return err
	}
	defer on.Close()
	answered := make(chan error, 1)
	on.Spawn(func() {
		answered <- on.WithChannel(ctx, func(ch *amqp.Channel) error { return survey.ToNobody(ctx, ch) })
	})
	select {
	case err := <-answered:
		if refusal.Forbidden(err) {
			e.unchecked("alarms: the user may not write to amq.default, by which the broker is asked")
			return nil
		}
		if err == nil {
			e.passed()
		}
		return err
	case <-on.Blocks():
		reason, _ := on.Blocked()
		fix := "give the broker more memory, or: rabbitmqctl set_vm_memory_high_watermark 0.6"
		if strings.Contains(reason, "disk") {
			fix = "free space on the broker's disk, or: rabbitmqctl set_disk_free_limit 100MB"
		}
		e.fault(fmt.Sprintf("the broker takes no messages: %s", reason), "nothing can be sent; handlers that send, retries and parking wait", fix)
		return nil
	}
}

// limits looks at the version, and at what the broker allows a connection.
func (e *examination) limits(ctx context.Context) error {
	switch older, known := old(e.s.On.Version()); {
	case !known:
		e.unchecked("whether the broker is RabbitMQ 3.10 or later: it calls its version %q", e.s.On.Version())
	case older:
		e.fault(fmt.Sprintf("the broker is RabbitMQ %s", e.s.On.Version()), "harebus is tested with 3.10 and later; older ones lack at-least-once dead-lettering", "install RabbitMQ 3.10 or later")
	default:
		e.passed()
	}
	const frame, channels = 32 << 10, 32
	if e.s.On.FrameMax() < frame {
		e.fault(fmt.Sprintf("frame_max is %d", e.s.On.FrameMax()),
			"the headers of a message must fit into one frame: those of deferred messages and of failures with long texts do not",
			"rabbitmqctl eval 'application:set_env(rabbit, frame_max, 131072).'   and frame_max = 131072 in rabbitmq.conf")
	} else {
		e.passed()
	}
	opened, err := e.open(ctx, channels)
	switch {
	case err != nil:
		return err
	case opened < channels:
		e.fault(fmt.Sprintf("a connection can have only %d channels", opened), "each consumer needs one, and one more while its prefetch changes; publishing needs four",
			"rabbitmqctl eval 'application:set_env(rabbit, channel_max, 2047).'   and channel_max = 2047 in rabbitmq.conf")
	default:
		e.passed()
	}
	return nil
}

// open opens channels on a connection of its own, and says how many it gets.
func (e *examination) open(ctx context.Context, most int) (opened int, err error) {
	on, err := e.Link.Extra(ctx, "channels")
	if err != nil {
		return 0, err
	}
	defer on.Close()
	err = on.RPCs(ctx, func(next func()) error {
		for opened < most {
			next()
			if _, err := on.Channel(); err != nil {
				if errors.Is(err, amqp.ErrChannelMax) || on.Alive() || session.Permanent(err) {
					return nil
				}
				return err
			}
			opened++
		}
		return nil
	})
	return opened, err
}

// old says whether a version is below 3.10, and whether that can be read from it.
func old(version string) (older, known bool) {
	var major, minor int
	if n, err := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 || err != nil {
		return false, false
	}
	const first, firstMinor = 3, 10
	return major < first || major == first && minor < firstMinor, true
}

// clock compares the broker's clock with that of this machine: the broker writes the time
// into a message that expires at once. Both queues end with the connection.
func (e *examination) clock(ctx context.Context) error {
	at, err := e.brokerTime(ctx)
	var refused *amqp.Error
	switch {
	case errors.As(err, &refused):
		e.unchecked("the broker's clock: the user may not make a queue of its own (harebus.doctor.…) and publish to it")
		return nil
	case err != nil:
		return err
	}
	const tolerance = 2 * time.Second // the broker tells whole seconds
	if skew := at.Sub(e.Now()).Round(time.Second); skew > tolerance || skew < -tolerance {
		e.warn(fmt.Sprintf("the broker's clock differs from this machine's by %v", skew),
			"times in messages and logs are wrong; a receiver whose clock is behind defers messages again", "synchronise the clocks (chrony, ntpd) of the broker and of this machine")
		return nil
	}
	e.passed()
	return nil
}

func (e *examination) brokerTime(ctx context.Context) (at time.Time, err error) {
	name := "harebus.doctor." + messageid.New()
	err = e.s.On.WithChannel(ctx, func(ch *amqp.Channel) error {
		dead := name + ".dead"
		if _, err := ch.QueueDeclare(dead, false, true, true, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(name, false, true, true, false, amqp.Table{
			"x-message-ttl": int64(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
		}); err != nil {
			return err
		}
		deliveries, err := ch.ConsumeWithContext(ctx, dead, "", true, true, false, false, nil)
		if err != nil {
			return err
		}
		if err := ch.PublishWithContext(ctx, "", name, false, false, amqp.Publishing{}); err != nil {
			return err
		}
		select {
		case d, ok := <-deliveries:
			if !ok {
				return amqp.ErrClosed
			}
			if err := wire.Unpack(&d); err != nil {
				return err
			}
			at, err = deathTime(d.Headers)
			_, _ = ch.QueueDelete(name, false, false, false) // it ends with the connection anyway
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return at, err
}

func deathTime(headers amqp.Table) (time.Time, error) {
	if deaths, ok := headers["x-death"].([]any); ok && len(deaths) > 0 {
		if death, ok := deaths[0].(amqp.Table); ok {
			if at, ok := death["time"].(time.Time); ok {
				return at, nil
			}
		}
	}
	return time.Time{}, errors.New("the broker does not say when a message has expired")
}
