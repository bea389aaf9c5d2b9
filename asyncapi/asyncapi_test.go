package asyncapi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/contract"
)

type (
	placeOrder struct {
		ID    string  `json:"id"             jsonschema:"minLength=1"`
		Lines []Line  `json:"lines"`
		Note  string  `json:"note,omitempty"`
		Total float64 `json:"total"`
	}
	Line struct {
		SKU    string `json:"sku"`
		Amount int    `json:"amount" jsonschema:"minimum=1"`
	}
	orderPlaced struct {
		ID string `json:"id"`
	}
	reserve  struct{ Lines []Line }
	printout []byte
)

func (placeOrder) MessageType() string   { return "PlaceOrder" }
func (*orderPlaced) MessageType() string { return "OrderPlaced" }
func (orderPlaced) Topic() string        { return "order.placed" }
func (reserve) MessageType() string      { return "Reserve" }
func (printout) MessageType() string     { return "Print out/now" }

func nothing[T any](context.Context, *harebus.Bus, T) error { return nil }

// orders is the service of the tests.
func orders(t testing.TB) *harebus.Setup {
	t.Helper()
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Subscriptions: []string{"stock.*"},
		Payload: harebus.PayloadConfig{TypeCodecs: map[string]harebus.Codec{"Print out/now": harebus.Text{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(setup, nothing[placeOrder])
	harebus.HandleEvent(setup, nothing[orderPlaced])
	setup.HandleMessage("Print out/now", nothing[*harebus.Message])
	setup.HandleMessage(harebus.AnyType, nothing[*harebus.Message])
	one, err := setup.Endpoint(harebus.EndpointConfig{Queue: "orders.caches", QueueOptions: harebus.QueueOptions{PerInstance: true}})
	if err != nil {
		t.Fatal(err)
	}
	harebus.HandleEvent(one, nothing[*orderPlaced])
	harebus.Publishes[orderPlaced](setup, "")
	harebus.Sends[reserve](setup, "stock")
	harebus.Sends[printout](one, "stock")
	return setup
}

var info = Info{Title: "orders", Version: "1.0.0", Description: "Takes orders.", Servers: map[string]string{"production": "rabbit.example.org:5672"}}

// TestExport compares the document of a service with the one that its reader and the parser of the format have accepted.
func TestExport(t *testing.T) {
	t.Parallel()
	Check(t, orders(t), info, "testdata/orders.json")
	Check(t, empty(t), Info{Title: "empty", Version: "0"}, "testdata/empty.json")
}

func empty(t testing.TB) *harebus.Setup {
	t.Helper()
	setup, err := harebus.New(harebus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return setup
}

// TestExportIsItsOwnContract: a document has the operations of its service, and no change against itself.
func TestExportIsItsOwnContract(t *testing.T) {
	t.Parallel()
	text, err := Export(orders(t), info)
	if err != nil {
		t.Fatal(err)
	}
	document, err := contract.Read(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `receive "PlaceOrder", queue "orders"
receive "Print out/now", queue "orders"
receive "OrderPlaced", topic "order.placed" of exchange "PikaBusTopic"
send "Print out/now", queue "stock"
send "Reserve", queue "stock"
send "OrderPlaced", topic "order.placed" of exchange "PikaBusTopic"`
	if got := strings.Join(document.Operations(), "\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if changes, err := contract.Diff(document, document); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

type otherPlaced struct{ Number int }

func (otherPlaced) MessageType() string { return "OrderPlaced" }
func (otherPlaced) Topic() string       { return "order.placed" }

// TestExportOfTwoBodies: a document with two bodies of one event could not be compared, so it is refused with both Go types.
func TestExportOfTwoBodies(t *testing.T) {
	t.Parallel()
	setup := orders(t)
	one, err := setup.Endpoint(harebus.EndpointConfig{Queue: "orders.reports"})
	if err != nil {
		t.Fatal(err)
	}
	harebus.HandleEvent(one, nothing[otherPlaced])
	if _, err := Export(setup, info); err == nil || !strings.Contains(err.Error(), "asyncapi.orderPlaced and a asyncapi.otherPlaced in one place") {
		t.Errorf("%v", err)
	}
}

// TestExportFaults: what cannot be described is an error.
func TestExportFaults(t *testing.T) {
	t.Parallel()
	if _, err := Export(empty(t), Info{Title: "x"}); err == nil || !strings.Contains(err.Error(), "Info needs a Title and a Version") {
		t.Errorf("%v", err)
	}
	setup := empty(t)
	harebus.Sends[struct{}](setup, "q")
	harebus.Sends[reserve](setup, strings.Repeat("q", 300))
	harebus.Publishes[reserve](setup, "")
	_, err := Export(setup, info)
	for _, want := range []string{"declare that struct {} is sent: the type has no wire name", "declare that asyncapi.reserve is sent", "the type has no topic"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	setup = empty(t)
	harebus.Sends[wrong](setup, "q")
	if _, err := Export(setup, info); err == nil || !strings.Contains(err.Error(), `message "wrong": asyncapi.wrong: field C: JSON has nothing for a chan int`) {
		t.Errorf("%v", err)
	}
}

type wrong struct{ C chan int }

func (wrong) MessageType() string { return "wrong" }

// report is a test that Check may fail.
type report struct{ text string }

func (*report) Helper()                             {}
func (r *report) Fatalf(format string, args ...any) { r.text += fmt.Sprintf(format, args...) }

// TestCheckFindsStaleFiles: a missing file and one of another service fail the test, and the text says what to do.
func TestCheckFindsStaleFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "contract.json")
	check := func(setup *harebus.Setup, want string) {
		t.Helper()
		var r report
		if Check(&r, setup, info, file); want == "" && r.text != "" || !strings.Contains(r.text, want) {
			t.Errorf("%q, want %q", r.text, want)
		}
	}
	t.Setenv(Update, "")
	check(orders(t), "HAREBUS_UPDATE=1 go test makes the file")
	t.Setenv(Update, "1")
	check(orders(t), "")
	t.Setenv(Update, "")
	check(orders(t), "")
	other := orders(t)
	harebus.Sends[placeOrder](other, "orders")
	check(other, "is not what the service takes and gives")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "\n", "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	check(orders(t), "")
}

// many is a type of message for each digit of its type arguments.
type many[A, B any] struct {
	A A
	B map[string]B
	C []many[B, B]
	D *orderPlaced
	E struct{ F, G, H, I, J string }
}

func (many[A, B]) MessageType() string {
	return fmt.Sprintf("Many%v%v", reflect.TypeFor[A](), reflect.TypeFor[B]())
}

// hundred is a service that sends a hundred types.
func hundred(t testing.TB) *harebus.Setup {
	t.Helper()
	setup := empty(t)
	tens[int](setup)
	tens[int8](setup)
	tens[int16](setup)
	tens[int32](setup)
	tens[int64](setup)
	tens[uint](setup)
	tens[string](setup)
	tens[float64](setup)
	tens[bool](setup)
	tens[[]byte](setup)
	return setup
}

func tens[A any](setup *harebus.Setup) {
	harebus.Sends[many[A, int]](setup, "q")
	harebus.Sends[many[A, int8]](setup, "q")
	harebus.Sends[many[A, int16]](setup, "q")
	harebus.Sends[many[A, int32]](setup, "q")
	harebus.Sends[many[A, int64]](setup, "q")
	harebus.Sends[many[A, uint]](setup, "q")
	harebus.Sends[many[A, string]](setup, "q")
	harebus.Sends[many[A, float64]](setup, "q")
	harebus.Sends[many[A, bool]](setup, "q")
	harebus.Sends[many[A, []byte]](setup, "q")
}

// BenchmarkExport exports a service with a hundred types; it may take 100 ms.
func BenchmarkExport(b *testing.B) {
	setup := hundred(b)
	for b.Loop() {
		if _, err := Export(setup, info); err != nil {
			b.Fatal(err)
		}
	}
}

// TestExportManyTypes: a hundred types have schemas of their own, and the document is read.
func TestExportManyTypes(t *testing.T) {
	t.Parallel()
	text, err := Export(hundred(t), info)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Operations map[string]any
		Components struct{ Messages, Schemas map[string]any }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Operations) != 100 || len(document.Components.Messages) != 100 || len(document.Components.Schemas) < 100 {
		t.Errorf("%d operations, %d messages, %d schemas", len(document.Operations), len(document.Components.Messages), len(document.Components.Schemas))
	}
}
