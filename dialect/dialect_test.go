package dialect_test

import (
	"strings"
	"testing"

	"github.com/harebus/harebus/dialect"
)

// TestParseQueue: what strangers write becomes the name of a queue, or nothing.
func TestParseQueue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"orders": "orders", "wolverine.response.7": "wolverine.response.7", "my%20queue": "my queue", "bestellungen-ü": "bestellungen-ü", "amq.gen-x": "amq.gen-x",
		"": "", ".": "", "..": "", "%2e%2e": "", "a/b": "", "%2f": "", "a\x00b": "", "%00": "", "\xff": "", "%": "", "%zz": "", "a\nb": "", strings.Repeat("q", 256): "",
	} {
		if got, err := dialect.ParseQueue(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%.40q is %q, %v", text, got, err)
		}
	}
	if got, err := dialect.ParseQueue(strings.Repeat("q", 255)); len(got) != 255 || err != nil {
		t.Errorf("a long name: %v", err)
	}
}

// TestParseReplyTo: a property is the name of a queue as it is, and no other one.
func TestParseReplyTo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"orders": "orders", "bestellungen-ü": "bestellungen-ü", "my queue": "my queue", "my%20queue": "", "err%6Fr": "", "amq.rabbitmq.reply-to.g1h2AA/+x.k==": "amq.rabbitmq.reply-to.g1h2AA/+x.k==", "%2e": "", "a/b": "", "": ""} {
		if got, err := dialect.ParseReplyTo(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%.40q is %q, %v", text, got, err)
		}
	}
}

// TestBroker: an address is on this broker, or names none.
func TestBroker(t *testing.T) {
	t.Parallel()
	b := &dialect.Broker{Hosts: []string{"rabbit-1", "rabbit-2"}, VirtualHost: "shop"}
	for _, c := range []struct {
		host, virtualHost string
		want              bool
	}{
		{"", "", true}, {"rabbit-2", "shop", true}, {"rabbit-2", "", true}, {"", "shop", true}, {"alias", "shop", true},
		{"rabbit-3", "shop", false}, {"rabbit-1", "/", false}, {"RABBIT-1", "shop", true}, {"rabbit-1", "Shop", false},
	} {
		if err := b.Has(c.host, c.virtualHost, "alias"); (err == nil) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	var none *dialect.Broker
	if none.Has("x", "") == nil || none.Has("", "x") == nil || none.Has("", "") != nil {
		t.Error("no broker has an address")
	}
}

// TestGUID: what a peer of .NET reads as one.
func TestGUID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"08df4d3e-f5b2-6611-0200-000000000000": true, "08DF4D3E-F5B2-6611-0200-00000000000F": true,
		"": false, "order-7": false, "08df4d3ef5b266110200000000000000": false, "{08df4d3e-f5b2-6611-0200-000000000000}": false,
		"08df4d3e-f5b2-6611-0200-00000000000g": false, "08df4d3e-f5b2-6611-02000-00000000000": false, "08df4d3e-f5b2-6611-0200-0000000000000": false,
	} {
		if dialect.IsGUID(id) != want || (dialect.CheckGUID("id", id) == nil) != want {
			t.Errorf("%q", id)
		}
	}
}

// TestTypes: each type has one name on each side.
func TestTypes(t *testing.T) {
	t.Parallel()
	types := dialect.Types{"A": "Acme.A", "B": "Acme.B"}
	own, err := types.Own()
	if err != nil || own["Acme.A"] != "A" || own["Acme.B"] != "B" || len(own) != 2 {
		t.Errorf("own are %v, %v", own, err)
	}
	if name, err := types.Foreign("B"); name != "Acme.B" || err != nil {
		t.Errorf("B is %q, %v", name, err)
	}
	for _, name := range []string{"", "C", "Acme.A"} {
		if got, err := types.Foreign(name); err == nil {
			t.Errorf("%q is %q", name, got)
		}
	}
	for _, wrong := range []dialect.Types{{"": "x"}, {"x": ""}, {"x": "y", "z": "y"}} {
		if _, err := wrong.Own(); err == nil {
			t.Errorf("%v is taken", wrong)
		}
	}
}
