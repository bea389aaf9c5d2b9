package harebus_test

import (
	"context"
	"encoding/xml"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// xmlCodec is all it takes to speak another format.
type xmlCodec struct{}

func (xmlCodec) ContentType() string                  { return "application/xml" }
func (xmlCodec) Encode(value any) ([]byte, error)     { return xml.Marshal(value) }
func (xmlCodec) Decode(body []byte, target any) error { return xml.Unmarshal(body, target) }

// A codec is chosen by content type when reading. When sending it is chosen by
// the call, by message type (Config.Payload.TypeCodecs), or by the value; else it is JSON.
func ExampleCodec() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{xmlCodec{}}},
		Consume: harebus.ConsumeConfig{Concurrency: 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		m := harebus.Incoming(ctx)
		fmt.Printf("order %d from %s (%s)\n", cmd.ID, m.Body, m.ContentType)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for id, contentType := range []string{"application/json", "application/xml"} {
		err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: id}, harebus.WithContentType(contentType))
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// order 0 from {"ID":0} (application/json)
	// order 1 from <PlaceOrder><ID>1</ID></PlaceOrder> (application/xml)
}
