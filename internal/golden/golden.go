// Package golden keeps messages in files as they were on the wire, for tests that later versions read them and send the same.
package golden

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

var update = flag.Bool("update", false, "write the golden files anew")

// queue is where the messages are sent.
const queue = "golden"

// order is what the messages carry.
type order struct {
	Text   string
	Number int
}

func (order) MessageType() string { return "Order" }

var sent = order{strings.Repeat("all work and no play – ", 60), 7}

// Form is a way in which messages travel.
type Form struct {
	// Name is that of its file in testdata.
	Name string
	// Configure makes a setup send and read it.
	Configure func(*harebus.Config)
	// Same says that the body, and its signature if it has one, are the same whenever it is sent.
	Same bool
	// Store has the bodies of a claim check; nil if there is none.
	Store *Store
}

// message is a message on the wire. Headers of other types than text would not survive JSON, and there are none.
type message struct {
	Properties properties
	Headers    map[string]string
	Body       []byte
	Stored     map[string][]byte `json:",omitempty"`
}

type properties struct {
	ContentType, ContentEncoding, CorrelationID, ReplyTo, MessageID, Type, AppID string
	DeliveryMode, Priority                                                       uint8
	Timestamp                                                                    time.Time
}

// Test sends a message and compares it with the file, and has a service handle the one of the file.
func Test(t *testing.T, f Form) {
	t.Helper()
	var now message
	synctest.Test(t, func(t *testing.T) { now = send(t, f) }) // at midnight of the first day of 2000
	want := read(t, f.Name, now)
	got := now
	if !f.Same {
		got.Body, got.Stored = want.Body, want.Stored
		if signature := "PikaBus.Signature"; got.Headers[signature] != "" {
			got.Headers[signature] = want.Headers[signature]
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sent\n%s\nwant\n%s", text(t, got), text(t, want))
	}
	synctest.Test(t, func(t *testing.T) { handle(t, f, want) })
}

// send sends the message and returns what lies in the queue.
func send(t *testing.T, f Form) message {
	t.Helper()
	broker, ch := server(t)
	if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	s := setup(t, f, harebus.Config{URL: broker.URL(), Dial: broker.Dial})
	if err := s.Bus().Send(t.Context(), queue, sent, harebus.WithMessageID("message-1"), harebus.WithCorrelationID("conversation-1"), harebus.WithReplyTo("shop"), harebus.WithHeader("tenant", "blue")); err != nil {
		t.Fatal(err)
	}
	return onWire(t, broker.Messages(queue), f.Store)
}

// handle has a service handle the message.
func handle(t *testing.T, f Form, m message) {
	t.Helper()
	broker, ch := server(t)
	if f.Store != nil {
		f.Store.bodies = m.Stored
	}
	s := setup(t, f, harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: queue})
	got := make(chan order, 1)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
		got <- o
		return nil
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ch.PublishWithContext(t.Context(), "", queue, true, false, m.publishing()); err != nil {
		t.Fatal(err)
	}
	select {
	case o := <-got:
		if o != sent {
			t.Errorf("the handler got %+v, want %+v", o, sent)
		}
	case <-time.After(time.Minute):
		for _, parked := range broker.Messages("error") {
			t.Error(parked.Headers["PikaBus.ErrorDetails"])
		}
		t.Error("the message was not handled")
	}
}

func server(t *testing.T) (*brokertest.Broker, *amqp.Channel) {
	t.Helper()
	broker := brokertest.New()
	t.Cleanup(broker.Close)
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return broker, ch
}

func setup(t *testing.T, f Form, cfg harebus.Config) *harebus.Setup {
	t.Helper()
	f.Configure(&cfg)
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// onWire is the only message of a queue.
func onWire(t *testing.T, messages []brokertest.Message, store *Store) message {
	t.Helper()
	if len(messages) != 1 {
		t.Fatalf("%d messages in the queue", len(messages))
	}
	p := messages[0].Publishing
	m := message{
		Properties: properties{
			p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.MessageId, p.Type, p.AppId,
			p.DeliveryMode, p.Priority, p.Timestamp.UTC(),
		},
		Headers: map[string]string{}, Body: p.Body,
	}
	for name, value := range p.Headers {
		text, ok := value.(string)
		if !ok {
			t.Fatalf("the header %s is a %T", name, value)
		}
		m.Headers[name] = text
	}
	if store != nil {
		m.Stored = store.bodies
	}
	return m
}

func (m *message) publishing() amqp.Publishing {
	headers := amqp.Table{}
	for name, text := range m.Headers {
		headers[name] = text
	}
	p := &m.Properties
	return amqp.Publishing{
		Headers: headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode, Priority: p.Priority,
		CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo, MessageId: p.MessageID, Timestamp: p.Timestamp, Type: p.Type, AppId: p.AppID, Body: m.Body,
	}
}

func text(t *testing.T, m message) []byte {
	t.Helper()
	text, err := json.MarshalIndent(m, "", "\t") //nolint:musttag // the files have the names of Go
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// read returns the message of a file. With -update it is written first.
func read(t *testing.T, name string, now message) (m message) {
	t.Helper()
	name = filepath.Join("testdata", name+".json")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o750), os.WriteFile(name, text(t, now), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(name) //nolint:gosec // a test names it
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &m); err != nil { //nolint:musttag // likewise
		t.Fatalf("read %s: %v", name, err)
	}
	return m
}

// Store keeps the bodies of a claim check.
type Store struct {
	mu     sync.Mutex // guards bodies
	bodies map[string][]byte
}

// Put stores a body.
func (s *Store) Put(_ context.Context, key string, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bodies = map[string][]byte{key: body}
	return nil
}

// Get returns a body.
func (s *Store) Get(_ context.Context, key string, limit int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, ok := s.bodies[key]
	switch {
	case !ok:
		return nil, fmt.Errorf("golden: body %s: %w", key, claim.ErrNotFound)
	case len(body) > limit:
		return nil, harebus.ErrBodyTooLarge
	}
	return body, nil
}
