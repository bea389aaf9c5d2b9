package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestExample(t *testing.T) {
	t.Setenv("AMQP_URL", "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out strings.Builder
	if err := runIn(ctx, t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	const want = "events of orders 7 and 9: true and true, of order 8: false\n" +
		"rows: 2, the sum of their ids: 16\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}
