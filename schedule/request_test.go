package schedule

import (
	"encoding/json"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ask sends a request as the command does, and returns the answer.
func (r *rig) ask(q request) (a answer) {
	r.t.Helper()
	ch, end := r.channel()
	defer end()
	own, err := ch.QueueDeclare("harebus.schedule.test", false, true, true, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	answers, err := ch.Consume(own.Name, "", true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := json.Marshal(q)
	if err != nil {
		r.t.Fatal(err)
	}
	err = ch.PublishWithContext(r.t.Context(), "", tokens, true, false, amqp.Publishing{
		Type: typeRequest, ContentType: "application/json", ReplyTo: own.Name, Body: body,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	select {
	case m := <-answers:
		if err := json.Unmarshal(m.Body, &a); err != nil {
			r.t.Fatal(err)
		}
	case <-time.After(2 * time.Minute):
		r.t.Fatal("no answer")
	}
	return a
}

// TestRequests: the leader lists, runs, pauses, resumes and removes schedules.
func TestRequests(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "@hourly")
		i.add("daily", "@daily")
		i.start()
		time.Sleep(90 * time.Minute)
		a := r.ask(request{Do: "ls"})
		if len(a.Tokens) != 2 || a.Tokens[1].Name != "hourly" || a.Tokens[1].Expression != "@hourly" || a.Tokens[1].Next == nil || !a.Defined["daily"] || a.Leader == "" {
			t.Fatalf("ls: %+v", a)
		}
		runs := func() int { got, _ := r.seen("hourly"); return len(got) }
		before := runs()
		if a := r.ask(request{Do: "run", Name: "hourly"}); a.Error != "" {
			t.Fatal(a.Error)
		}
		time.Sleep(time.Second)
		if runs() != before+1 {
			t.Error("run does not run")
		}
		if a := r.ask(request{Do: "pause", Name: "hourly"}); a.Error != "" {
			t.Fatal(a.Error)
		}
		time.Sleep(5 * time.Hour)
		if runs() != before+1 {
			t.Error("it runs while it is paused")
		}
		if a := r.ask(request{Do: "resume", Name: "hourly"}); a.Error != "" {
			t.Fatal(a.Error)
		}
		time.Sleep(time.Hour)
		if runs() != before+2 {
			t.Errorf("%d runs after resume, want %d", runs(), before+2)
		}
		for _, q := range []request{{Do: "run", Name: "none"}, {Do: "pause", Name: "none"}, {Do: "dance", Name: "hourly"}} {
			if a := r.ask(q); a.Error == "" {
				t.Errorf("%+v is carried out", q)
			}
		}
	})
}
