package errorqueue_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/errorqueue"
)

// service is what the test that is written needs of its package.
const service = `package orders

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

type Place struct{ ID string }

func newSetup(cfg harebus.Config) (*harebus.Setup, error) {
	cfg.Queue = "orders"
	cfg.QueueOptions.Type, cfg.ErrorQueue.Type = topology.Classic, topology.Classic
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	setup.HandleMessage("Place", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if m.Attempt != 6 || m.Headers["tenant"] != "north" {
			return fmt.Errorf("attempt %d, headers %v", m.Attempt, m.Headers)
		}
		if failure := os.Getenv("FAILURE"); failure != "" {
			return harebus.NoRetry(errors.New(failure))
		}
		return nil
	})
	return setup, nil
}
`

// TestGoTest: the test that is written compiles, fails as the message did, and passes when the
// handler is mended.
func TestGoTest(t *testing.T) {
	var written []byte
	t.Run("write", func(t *testing.T) {
		t.Run("in virtual time", func(t *testing.T) {
			bubble(t, func(x *bench) {
				x.put("error", parked("m\"1`", "Place", "out of\nstock", amqp.Table{
					"n": int64(7), "f": float32(1.5), "b": true, "none": nil, "at": time.Unix(1e9, 0), "list": []any{"a", int8(1)}, "deep": amqp.Table{"b": []byte("\x00")}, "d": amqp.Decimal{Scale: 2, Value: 3},
				}), amqp.Publishing{MessageId: "homeless"})
				x.with(func(q *errorqueue.Queue) {
					_, err := q.Each(x.Context(), errorqueue.Filter{}, func(c *errorqueue.Content) (err error) {
						if c.MessageID == "homeless" {
							if _, err := q.GoTest(c, "orders", "newSetup"); err == nil || !strings.Contains(err.Error(), "where it came from") {
								t.Errorf("without a source: %v", err)
							}
							return nil
						}
						if _, err := q.GoTest(c, "orders", "new setup"); err == nil {
							t.Error("a function may be named anything")
						}
						written, err = q.GoTest(c, "orders", "newSetup")
						return err
					})
					x.try(err)
				})
			})
		})
	})
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	write("go.mod", strings.Replace(string(mod), "module github.com/harebus/harebus", "module orders", 1)+
		"\nrequire github.com/harebus/harebus v0.0.0\n\nreplace github.com/harebus/harebus => "+root+"\n")
	write("go.sum", string(sum))
	write("orders_test.go", string(written))
	write("service.go", service)
	binary := filepath.Join(dir, "orders.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-mod=mod", "-o", binary, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\nThe test is\n%s", err, out, written)
	}
	for failure, want := range map[string]string{"still out of stock": "it has failed again: ", "": "PASS"} {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Env = append(os.Environ(), "FAILURE="+failure)
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) || !strings.Contains(string(out), failure) || (err == nil) != (failure == "") {
			t.Errorf("%q: %v\n%s\nThe test is\n%s", failure, err, out, written)
		}
	}
}
