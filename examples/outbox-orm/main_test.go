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
	const want = "sqlx: orders 1, an event of sqlx\ngorm: orders 1, an event of gorm\nbun: orders 1, an event of bun\nent: orders 1, an event of ent\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}
