package harebus_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// Bodies of 4 KiB and more are compressed; handlers get them as they were.
func ExampleGzip() {
	broker := brokertest.New()
	defer broker.Close()
	cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "reports"}
	cfg.Payload.Compress.With = harebus.Gzip{}
	setup, err := harebus.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, text string) error {
		fmt.Printf("%d characters came as %s\n", len(text), harebus.Incoming(ctx).Properties.ContentEncoding)
		close(done)
		return nil
	}, harebus.WithType("Report"))
	ctx := context.Background()
	if err := setup.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer setup.Close()
	report := strings.Repeat("nothing to report. ", 1000)
	if err := setup.Bus().Send(ctx, "reports", report, harebus.WithType("Report")); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	// Output: 19000 characters came as gzip
}
