package claim_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

// Large bodies go into a directory; the broker has a reference of some hundred bytes.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	root, _ := os.MkdirTemp("", "claims") // the errors are left out for brevity
	defer os.RemoveAll(root)
	store, _ := claim.OpenDir(root)
	defer store.Close()
	large, _ := claim.New(claim.Config{Store: store})

	cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "photos"}
	large.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, p photo) error {
		fmt.Printf("a photo of %d bytes came as %s\n", len(p.Data), harebus.Incoming(ctx).Properties.ContentType)
		close(done)
		return nil
	})
	ctx := context.Background()
	if err := setup.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "photos", photo{strings.Repeat("x", 1<<20)}); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	// Output: a photo of 1048576 bytes came as application/vnd.harebus.claim
}
