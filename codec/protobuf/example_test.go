package protobuf_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/codec/protobuf"
)

// A generated type is sent and handled under the name that its .proto file gives it.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	cfg := harebus.Config{Dial: broker.Dial, Queue: "timers"}
	cfg.Payload.Codecs = []harebus.Codec{protobuf.Codec{}}
	setup, err := harebus.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	name := harebus.WithType(protobuf.Name((*durationpb.Duration)(nil)))
	handled := make(chan time.Duration)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, d *durationpb.Duration) error {
		fmt.Println(harebus.Incoming(ctx).Type, harebus.Incoming(ctx).ContentType)
		handled <- d.AsDuration()
		return nil
	}, name)
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "timers", durationpb.New(time.Minute), name); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-handled)
	// Output:
	// google.protobuf.Duration application/protobuf
	// 1m0s
}
