package protobuf_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/codec/protobuf"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	in := durationpb.New(90 * time.Second)
	body, err := protobuf.Codec{}.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	out := durationpb.New(5 * time.Hour) // what was in it is replaced
	if err := (protobuf.Codec{}).Decode(body, out); err != nil || !proto.Equal(in, out) {
		t.Errorf("got %v, %v", out, err)
	}
	if err := (protobuf.Codec{}).Decode(nil, out); err != nil || !proto.Equal(out, &durationpb.Duration{}) {
		t.Errorf("an empty body is %v, %v", out, err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	c := protobuf.Codec{}
	for name, value := range map[string]any{
		"nil": nil, "string": "x", "nil pointer": (*durationpb.Duration)(nil), "not UTF-8": wrapperspb.String("\xff"),
	} {
		if body, err := c.Encode(value); err == nil {
			t.Errorf("%s was encoded as %q", name, body)
		}
	}
	if err := c.Decode([]byte{0xff}, &durationpb.Duration{}); err == nil {
		t.Error("garbage was decoded")
	}
	if err := c.Decode([]byte{0x0a, 1, 0xff}, &wrapperspb.StringValue{}); err == nil {
		t.Error("text that is not UTF-8 was decoded")
	}
	if err := c.Decode(nil, new(string)); err == nil {
		t.Error("a string was decoded")
	}
	if c.Accepts("x") || c.Accepts(nil) || !c.Accepts(&durationpb.Duration{}) {
		t.Error("Accepts is wrong")
	}
}

func TestContentType(t *testing.T) {
	t.Parallel()
	if got := (protobuf.Codec{}).ContentType(); got != "application/protobuf" {
		t.Errorf("got %q", got)
	}
	if got := (protobuf.Codec{Type: "application/x-protobuf"}).ContentType(); got != "application/x-protobuf" {
		t.Errorf("got %q", got)
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	for _, m := range []proto.Message{&durationpb.Duration{}, (*durationpb.Duration)(nil)} {
		if got := protobuf.Name(m); got != "google.protobuf.Duration" {
			t.Errorf("got %q", got)
		}
	}
}

func TestDeterministic(t *testing.T) {
	t.Parallel()
	m, err := structpb.NewStruct(map[string]any{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 50 {
		body, err := protobuf.Codec{Deterministic: true}.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(body)] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d encodings", len(seen))
	}
}

// TestOnTheBus sends a generated type from one service to another, as the
// documentation says, beside a message that cannot be decoded.
func TestOnTheBus(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{
		URL: broker.URL(), Dial: broker.Dial, Queue: "timers", Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{protobuf.Codec{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	name := protobuf.Name((*durationpb.Duration)(nil))
	got := make(chan time.Duration, 1)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, d *durationpb.Duration) error {
		if m := harebus.Incoming(ctx); m.ContentType != protobuf.ContentType || m.ContentEncoding != "" {
			t.Errorf("content type %q, encoding %q", m.ContentType, m.ContentEncoding)
		}
		got <- d.AsDuration()
		return nil
	}, harebus.WithType(name))
	if err := setup.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := setup.Close(); err != nil {
			t.Error(err)
		}
	}()
	bus := setup.Bus()
	if err := bus.Send(ctx, "timers", durationpb.New(time.Minute), harebus.WithType(name)); err != nil {
		t.Fatal(err)
	}
	if d := <-got; d != time.Minute {
		t.Errorf("got %v", d)
	}
	if err := bus.Send(ctx, "timers", []byte{0xff}, harebus.WithType(name)); err != nil {
		t.Fatal(err)
	}
	if err := broker.WaitQueue(ctx, "error", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
		t.Fatal(err)
	}
	if err := bus.Send(ctx, "timers", (*durationpb.Duration)(nil), harebus.WithType(name)); !errors.Is(err, harebus.ErrRefused) {
		t.Errorf("got %v", err)
	}
}
