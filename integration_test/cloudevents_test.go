//go:build cloudevents

package integration_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// placed is an event of the type that the other side calls com.acme.order.placed.
type placed struct {
	ID       int    `json:"id"`
	Customer string `json:"customer"`
}

func (placed) MessageType() string { return "OrderPlaced" }

// TestCloudEventsSDK: the SDK for JavaScript finds the events valid that are written here, in every form, and reads the same from them; and
// what it writes is read here.
func TestCloudEventsSDK(t *testing.T) {
	t.Parallel()
	p := shared(t)
	types := dialect.Types{"OrderPlaced": "com.acme.order.placed"}
	cfg := p.config("ours")
	cfg.Payload.Dialects = []dialect.Dialect{cloudevents.New(cloudevents.Config{Types: types})}
	events := newInbox()
	s := p.setup(cfg)
	s.HandleMessage("OrderPlaced", events.take)
	p.start(s)

	cmd := exec.CommandContext(p.within(2*patience), "../scripts/cloudevents", "testdata/peer_cloudevents.cjs", p.url, p.queue("ours"), p.queue("peers"), "4")
	out, err := cmd.StdoutPipe()
	p.try(err)
	var failures bytes.Buffer
	cmd.Stderr = &failures
	p.try(cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		_, _ = io.Copy(io.Discard, out) // it is at its end
		p.Fatalf("the SDK said %q, %v\n%s", lines.Text(), cmd.Wait(), failures.String())
	}
	for i, form := range []cloudevents.Config{{}, {Prefix: "ce-"}, {Prefix: "cloudEvents:"}, {Structured: true}} {
		form.Types = types
		err := s.Bus().Send(p.Context(), p.queue("peers"), placed{7, "Grüße & <Co>"}, harebus.As(cloudevents.New(form)),
			harebus.WithMessageID(fmt.Sprint(i)), harebus.WithCorrelationID("c"), harebus.WithHeader("cloudEvents_subject", "orders/7"), harebus.WithHeader("cloudEvents_shop", "acme"))
		p.try(err)
	}
	var got, want []string
	for lines.Scan() {
		got = append(got, lines.Text())
	}
	for i, form := range []string{"application/json", "application/json", "application/json", "application/cloudevents+json; charset=utf-8"} {
		want = append(want, fmt.Sprintf(`{"id":"%d","type":"com.acme.order.placed","source":"/%s","specversion":"1.0","datacontenttype":"application/json","subject":"orders/7",`+
			`"data":{"id":7,"customer":"Grüße & <Co>"},"correlationid":"c","shop":"acme","form":"%s"}`, i, p.queue("ours"), form))
	}
	if err := cmd.Wait(); err != nil || !slices.Equal(fieldsOf(got), fieldsOf(want)) {
		p.Errorf("the SDK read, %v:\n%s\nwant\n%s\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"), failures.String())
	}
	received := events.await(p, 8)
	for _, m := range received {
		body := `{"id":7,"customer":"Grüße & <Co>"}`
		if m.ID == "blob" {
			body = "\x01\x02\xff"
		}
		if string(m.Body) != body || m.OriginatingAddress != "gateway" || m.CorrelationID != "c-1" || m.TimeSent.UTC().Format("15:04:05.000") != "08:44:41.901" {
			p.Errorf("%s: %+v", m.ID, m)
		}
		if subject := m.Headers["cloudEvents_subject"]; subject != "orders/7" && m.ID != "bare" {
			p.Errorf("%s: the subject is %v", m.ID, subject)
		}
	}
}

// TestCloudEventsAMQP10: events of a client of AMQP 1.0, which is what the binding of CloudEvents is for, are handled in each form: with the attributes as application
// properties of any type, with data, and with text as the body. A body that is a map is parked.
func TestCloudEventsAMQP10(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{Plugins: []string{"rabbitmq_amqp1_0"}})
	cfg := p.config("ours")
	cfg.Payload.Dialects = []dialect.Dialect{cloudevents.New(cloudevents.Config{Types: dialect.Types{"OrderPlaced": "com.acme.order.placed"}})}
	events := newInbox()
	s := p.setup(cfg)
	s.HandleMessage("OrderPlaced", events.take)
	p.start(s)
	u, err := url.Parse(p.url)
	p.try(err)
	address := "/queues/" + p.queue("ours")
	if strings.HasPrefix(p.node.Version(), "3.") {
		address = "/amq/queue/" + p.queue("ours")
	}
	if out, err := exec.CommandContext(p.within(2*patience), "../scripts/cloudevents", "testdata/peer_cloudevents_amqp10.cjs", u.Hostname(), u.Port(), address).CombinedOutput(); err != nil {
		p.Fatalf("%v: %s", err, out)
	}
	want := map[string]bool{"data": true, "colon": true, "text": true, "document": true, "text document": true}
	for _, m := range events.await(p, len(want)) {
		if !want[m.ID] || string(m.Body) != `{"id":7}` || m.OriginatingAddress != "gateway" || m.TimeSent.UTC().Format(time.DateTime) != "2026-11-21 08:44:41" ||
			m.Headers["cloudEvents_subject"] != "orders/7" || fmt.Sprint(m.Headers["cloudEvents_level"]) != "3" || m.Headers["cloudEvents_sampled"] != true {
			p.Errorf("%q: %+v %q", m.ID, m, m.Body)
		}
		delete(want, m.ID)
	}
	b := p.broker()
	p.eventually(patience, func() error {
		if q, err := b.look(p.queue("error")); err != nil || q.Messages != 1 {
			return fmt.Errorf("%d events are parked, %w", q.Messages, err)
		}
		return nil
	})
	parked := b.take(p.queue("error"), 1)[0]
	if of, encoded := parked.Headers["x-amqp-1.0-app-properties"].(string); parked.Headers["cloudEvents_id"] != "map" && !(encoded && strings.Contains(of, "cloudEvents_id\xa1\x03map")) {
		p.Errorf("the map is parked without what its sender wrote: %v", parked.Headers)
	}
	if !strings.Contains(fmt.Sprint(parked.Headers["PikaBus.ErrorDetails"]), "use a data section") {
		p.Errorf("the map is parked with %v", parked.Headers)
	}
}

// fieldsOf are the lines without the order of what is in them.
func fieldsOf(lines []string) []string {
	all := slices.Clone(lines)
	for i, line := range all {
		parts := strings.Split(strings.Trim(line, "{}"), ",")
		slices.Sort(parts)
		all[i] = strings.Join(parts, ",")
	}
	return all
}
