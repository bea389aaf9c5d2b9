package pulse_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/pulse"
)

// desk is the name of the queue at which an instance is asked.
func (r *rig) desk() string {
	r.Helper()
	for _, q := range r.broker.Queues() {
		if strings.HasPrefix(q.Name, "harebus.pulse.") {
			return q.Name
		}
	}
	r.Fatal("nobody can be asked")
	return ""
}

// TestHostileQuestions: whatever comes as a question, an instance stays as it is, fills no queue, and answers the next one.
func TestHostileQuestions(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		ch := r.channel()
		pause := `{"do":"pause","queue":"orders"}`
		for _, m := range []struct {
			exchange, key string
			amqp.Publishing
		}{
			{pulse.Exchange, "all", amqp.Publishing{ReplyTo: "orders", CorrelationId: "x"}},             // would fill a queue
			{pulse.Exchange, "all", amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to.g1.nobody"}},        // who has gone
			{pulse.Exchange, "all", amqp.Publishing{Body: []byte(pause)}},                               // an order where questions go
			{"", s.desk(), amqp.Publishing{Body: []byte(pause), ReplyTo: "orders"}},                     // an order past the exchange
			{pulse.ControlExchange, "all", amqp.Publishing{Body: []byte("{")}},                          // no JSON
			{pulse.ControlExchange, "all", amqp.Publishing{Body: []byte(`{"do":"stop"}`)}},              // no queue
			{pulse.ControlExchange, "all", amqp.Publishing{Body: []byte(`{"do":7,"queue":"orders"}`)}},  // another type
			{pulse.ControlExchange, "all", amqp.Publishing{Body: make([]byte, 1<<20)}},                  // large
			{pulse.ControlExchange, "all", amqp.Publishing{Headers: amqp.Table{"x": nested(200)}}},      // unreadable headers
			{pulse.ControlExchange, "queue.orders", amqp.Publishing{Body: []byte("\x1b[2J\xff\u202e")}}, // for the log
		} {
			r.try(ch.PublishWithContext(r.Context(), m.exchange, m.key, false, false, m.Publishing))
		}
		synctest.Wait()
		if q := r.ask(pulse.Target{}, 1).Answers[0].Queues[0]; q.Paused || q.Delivered > 0 {
			r.Errorf("queue %+v", q)
		}
		if left := r.broker.Messages("orders"); len(left) > 0 {
			r.Errorf("answers in a queue: %+v", left)
		}
	})
}

func nested(depth int) amqp.Table {
	t := amqp.Table{}
	for range depth {
		t = amqp.Table{"t": t}
	}
	return t
}

// TestStorm: of many questions at once an instance answers a few, and the rest takes no room.
func TestStorm(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{}, "orders", nil, nil).begin()
		ch := r.channel()
		for range 2000 {
			r.try(ch.PublishWithContext(r.Context(), pulse.Exchange, "all", false, false, amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to.g1.nobody"}))
		}
		q, _ := r.broker.Queue(s.desk())
		if q.Ready > 32 || q.Unacked > 4 {
			r.Errorf("%d questions wait, %d are in hand", q.Ready, q.Unacked)
		}
		synctest.Wait()
		r.ask(pulse.Target{}, 1)
	})
}

// TestHostileAnswers: what is no answer is counted, and harms nothing.
func TestHostileAnswers(t *testing.T) {
	bubble(t, func(r *rig) {
		r.serve(pulse.Config{}, "orders", nil, nil).begin()
		ch := r.channel()
		q, err := ch.QueueDeclare("", false, false, true, false, nil)
		r.try(err)
		r.try(ch.QueueBind(q.Name, "all", pulse.Exchange, false, nil))
		questions, err := ch.Consume(q.Name, "", true, false, false, false, nil)
		r.try(err)
		later := time.Now().Add(time.Minute).UTC().Format(time.RFC3339Nano)
		answers := []string{
			"", "{", "[]", "null", `"x"`, `{"instance":""}`, `{"instance":7}`, strings.Repeat("[", 1<<20), strings.Repeat("x", 1<<20),
			`{"instance":"` + strings.Repeat("i", 2000) + `"}`,
			`{"instance":"q","queues":[{"name":"` + strings.Repeat("q", 2000) + `"}]}`,
			`{"instance":"many","queues":[` + strings.Repeat("{},", 300) + `{}]}`,
			// These are answers.
			`{"instance":"\u001b[2Jevil","service":"\u202e","clock":"` + later + `","queues":[{"name":"\u0007","oldest":-5,"all":{"HandlingTime":{"Counts":[1]}},"types":{"x":{"CriticalTime":{"Counts":[1,2,3]}}}}]}`,
			`{"instance":"evil"}`, `{"instance":"evil","service":"twice"}`,
		}
		go func() {
			d := <-questions
			for _, body := range answers {
				_ = ch.PublishWithContext(r.Context(), "", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: []byte(body)})
			}
			_ = ch.PublishWithContext(r.Context(), "", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: "other", Body: []byte(`{"instance":"foreign"}`)})
		}()
		round := r.ask(pulse.Target{}, 3)
		if round.Unreadable != 13 {
			r.Errorf("%d unreadable", round.Unreadable)
		}
		for _, a := range round.Answers {
			switch a.Instance {
			case "evil":
				if a.Service != "twice" {
					r.Errorf("of two answers of an instance the first counts: %+v", a)
				}
			case "\x1b[2Jevil":
				q := a.Queues[0]
				if q.Oldest != 0 || q.All.HandlingTime.Quantile(0.5) != 0 || q.Types["x"].CriticalTime.Quantile(0.5) != 0 || a.Ahead < 50*time.Second {
					r.Errorf("answer %+v", a)
				}
			}
		}
	})
}

// TestFlood: an end to answers that never end.
func TestFlood(t *testing.T) {
	bubble(t, func(r *rig) {
		ch := r.channel()
		r.try(ch.ExchangeDeclare(pulse.Exchange, "direct", true, false, false, false, nil))
		q, err := ch.QueueDeclare("", false, false, true, false, nil)
		r.try(err)
		r.try(ch.QueueBind(q.Name, "all", pulse.Exchange, false, nil))
		questions, err := ch.Consume(q.Name, "", true, false, false, false, nil)
		r.try(err)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			d := <-questions
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
				_ = ch.PublishWithContext(r.Context(), "", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: fmt.Appendf(nil, `{"instance":"%d"}`, i)})
			}
		}()
		began := time.Now()
		_, err = r.client.Ask(r.Context(), pulse.Target{})
		r.try(err)
		if took := time.Since(began); took > 15*time.Second {
			r.Errorf("took %v", took)
		}
		close(stop)
		<-done
	})
}
