package seal_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

const plaintext = `{"card":"4111 1111 1111 1111"}`

// secret makes a key of one repeated byte.
func secret(t testing.TB, id string, b byte) *seal.Key {
	t.Helper()
	key, err := seal.NewKey(id, bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signing(t testing.TB, id string, b byte) (private, public *seal.Key) {
	t.Helper()
	seed := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
	private, err := seal.NewSigningKey(id, seed)
	if err != nil {
		t.Fatal(err)
	}
	public, err = seal.NewVerifyingKey(id, seed.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func ring(t testing.TB, current *seal.Key, accepted ...*seal.Key) *seal.Keyring {
	t.Helper()
	keys, err := seal.NewKeyring(current, accepted...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// sent is a command as its sender sees it.
func sent() *harebus.Identity {
	return &harebus.Identity{
		ID: "id-1", CorrelationID: "conversation-1", Type: "PlaceOrder", Intent: harebus.IntentCommand,
		ReplyTo: "shop", OriginatingAddress: "shop", AppID: "shop-3",
		TimeSent: time.Date(2026, 11, 29, 1, 2, 3, 456789123, time.UTC), Hops: 1,
		Headers:  map[string]any{"tenant": "blue", "trace": "abc", "limit": 7},
		Exchange: "PikaBusDirect", RoutingKey: "orders", Queue: "orders",
	}
}

// received is the same message as its receiver sees it.
func received(id *harebus.Identity) *harebus.Identity {
	r := *id
	r.Exchange, r.RoutingKey, r.NotBefore = "", "", time.Time{}
	r.TimeSent = id.TimeSent.Truncate(time.Microsecond)
	r.Headers = maps.Clone(id.Headers)
	for name, value := range r.Headers {
		if n, ok := value.(int); ok {
			r.Headers[name] = int64(n)
		}
	}
	return &r
}

func payload() *harebus.Payload {
	return &harebus.Payload{ContentType: "application/json", ContentEncoding: "utf-8", Body: []byte(plaintext)}
}

// guards are both kinds with the same policy.
func guards(keys seal.Keys, p seal.Policy) map[string]harebus.Guard {
	return map[string]harebus.Guard{"sealed": seal.New(keys, p), "signed": seal.Sign(keys, p)}
}

var all = seal.Policy{Types: []string{"*"}, Headers: []string{"tenant", "limit", "absent"}}

func protect(t testing.TB, g harebus.Guard, id *harebus.Identity) *harebus.Payload {
	t.Helper()
	p := payload()
	if err := g.Protect(t.Context(), id, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// admit admits a copy of the payload.
func admit(t testing.TB, g harebus.Guard, id *harebus.Identity, p *harebus.Payload) (*harebus.Payload, error) {
	t.Helper()
	copied := *p
	body := bytes.Clone(p.Body)
	err := g.Admit(t.Context(), id, &copied)
	if !bytes.Equal(body, p.Body) {
		t.Error("the guard changed the received body")
	}
	return &copied, err
}

// refused checks that a message is rejected for a reason. "" stands for any other error.
func refused(t testing.TB, err error, reason string) {
	t.Helper()
	rejected, ok := errors.AsType[*harebus.RejectError](err)
	switch {
	case err == nil:
		t.Errorf("the message was admitted; want %q", reason)
		return
	case reason == "" && ok:
		t.Errorf("rejected with %q; want an ordinary error", rejected.Reason)
	case reason != "" && (!ok || rejected.Reason != reason):
		t.Errorf("error %v; want the reason %q", err, reason)
	}
	if strings.Contains(err.Error(), "4111") {
		t.Errorf("the error quotes the body: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	private, public := signing(t, "sign", 3)
	for name, g := range map[string]struct {
		out, in      harebus.Guard
		confidential bool
	}{
		"sealed":       {seal.New(ring(t, secret(t, "k", 1)), all), seal.New(ring(t, nil, secret(t, "k", 1)), all), true},
		"details":      {seal.New(ring(t, secret(t, "k", 1)), all), seal.New(ring(t, secret(t, "k", 1)), seal.Policy{Headers: all.Headers, Details: true}), false},
		"hmac-sha256":  {seal.Sign(ring(t, secret(t, "k;=/ é", 1)), all), seal.Sign(ring(t, secret(t, "k;=/ é", 1)), all), false},
		"ed25519":      {seal.Sign(ring(t, private), all), seal.Sign(ring(t, nil, public), all), false},
		"ed25519, own": {seal.Sign(ring(t, private), all), seal.Sign(ring(t, private), all), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := sent()
			id.NotBefore = time.Date(2026, 11, 30, 0, 0, 0, 5000, time.UTC)
			p := protect(t, g.out, id)
			if p.Signature == "" && (p.ContentType != seal.ContentType || p.ContentEncoding != "" || bytes.Contains(p.Body, []byte("4111")) || utf8.Valid(p.Body)) {
				t.Errorf("on the wire: %q, %q, %q", p.ContentType, p.ContentEncoding, p.Body)
			}
			if p.Signature != "" && string(p.Body) != plaintext {
				t.Errorf("signing changed the body to %q", p.Body)
			}
			got, err := admit(t, g.in, received(id), p)
			if err != nil {
				t.Fatal(err)
			}
			want := payload()
			want.Signature, want.Confidential, want.DueAt = p.Signature, g.confidential, id.NotBefore
			if !reflect.DeepEqual(got, want) {
				t.Errorf("admitted %+v, want %+v", got, want)
			}
		})
	}
}

// TestEveryByte flips every bit of a frame and of a signature.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	for name, g := range guards(ring(t, secret(t, "key", 1)), all) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := sent()
			p := protect(t, g, id)
			if _, err := admit(t, g, received(id), p); err != nil {
				t.Fatal(err)
			}
			for i := range 8 * (len(p.Body) + len(p.Signature)) {
				changed := *p
				if at := i / 8; at < len(p.Body) {
					changed.Body = flip(p.Body, i)
				} else {
					changed.Signature = string(flip([]byte(p.Signature), i-8*len(p.Body)))
				}
				if got, err := admit(t, g, received(id), &changed); err == nil {
					t.Fatalf("bit %d changed, and admitted as %+v", i, got)
				}
			}
			for n := range len(p.Body) {
				cut := *p
				cut.Body = p.Body[:n]
				if _, err := admit(t, g, received(id), &cut); err == nil {
					t.Fatalf("cut to %d bytes, and admitted", n)
				}
			}
		})
	}
}

func flip(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// TestEveryField changes each thing that a message says of itself.
func TestEveryField(t *testing.T) {
	t.Parallel()
	changes := map[string]func(id *harebus.Identity){
		"id": func(id *harebus.Identity) { id.ID += "x" }, "correlation id": func(id *harebus.Identity) { id.CorrelationID = "" },
		"type": func(id *harebus.Identity) { id.Type = "CancelOrder" }, "intent": func(id *harebus.Identity) { id.Intent = harebus.IntentEvent },
		"reply address": func(id *harebus.Identity) { id.ReplyTo = "thief" }, "no reply address": func(id *harebus.Identity) { id.ReplyTo = "" },
		"originating address": func(id *harebus.Identity) { id.OriginatingAddress = "thief" }, "app id": func(id *harebus.Identity) { id.AppID = "" },
		"time": func(id *harebus.Identity) { id.TimeSent = id.TimeSent.Add(time.Microsecond) }, "hops": func(id *harebus.Identity) { id.Hops = 0 },
		"header": func(id *harebus.Identity) { id.Headers["tenant"] = "red" }, "no header": func(id *harebus.Identity) { delete(id.Headers, "tenant") },
		"another header": func(id *harebus.Identity) { id.Headers["absent"] = "" }, "null header": func(id *harebus.Identity) { id.Headers["absent"] = nil },
		"kind of a header": func(id *harebus.Identity) { id.Headers["limit"] = "7" }, "bytes": func(id *harebus.Identity) { id.Headers["tenant"] = []byte("blue") },
		"table":       func(id *harebus.Identity) { id.Headers["tenant"] = map[string]any{} },
		"neighbours":  func(id *harebus.Identity) { id.ID, id.CorrelationID = "id-1c", "onversation-1" },
		"neighbours2": func(id *harebus.Identity) { id.ReplyTo, id.OriginatingAddress = "shopsho", "p" },
		"long":        func(id *harebus.Identity) { id.Headers["tenant"] = strings.Repeat("x", 5000) },
	}
	for kind, g := range guards(ring(t, secret(t, "key", 1)), all) {
		id := sent()
		p := protect(t, g, id)
		for name, change := range changes {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := received(id)
				change(r)
				_, err := admit(t, g, r, p)
				refused(t, err, "tampered")
			})
		}
		t.Run(kind+"/what is free", func(t *testing.T) {
			t.Parallel()
			r := received(id)
			r.Headers["trace"], r.Headers["x-death"], r.Headers["PikaBus.ErrorRetries"] = "other", []any{}, int64(3)
			if _, err := admit(t, g, r, p); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOtherEnvironment: if the policy binds it, nobody changes or removes the environment of a message.
func TestOtherEnvironment(t *testing.T) {
	t.Parallel()
	const environment = "PikaBus.Environment"
	for kind, g := range guards(ring(t, secret(t, "key", 1)), seal.Policy{Types: []string{"*"}, Headers: []string{environment}}) {
		id := sent()
		id.Headers[environment] = "staging"
		p := protect(t, g, id)
		for name, change := range map[string]func(headers map[string]any){
			"production": func(headers map[string]any) { headers[environment] = "production" }, "none": func(headers map[string]any) { delete(headers, environment) },
		} {
			r := received(id)
			change(r.Headers)
			_, err := admit(t, g, r, p)
			t.Run(kind+"/"+name, func(t *testing.T) { refused(t, err, "tampered") })
		}
		if _, err := admit(t, g, received(id), p); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestEveryFieldOfTheBody: what describes a signed body is signed.
func TestEveryFieldOfTheBody(t *testing.T) {
	t.Parallel()
	g := seal.Sign(ring(t, secret(t, "key", 1)), all)
	p := protect(t, g, sent())
	for name, change := range map[string]func(p *harebus.Payload){
		"content type": func(p *harebus.Payload) { p.ContentType = "text/plain" },
		"coding":       func(p *harebus.Payload) { p.ContentEncoding = "gzip" },
		"neighbours":   func(p *harebus.Payload) { p.ContentType, p.ContentEncoding = "application/jsonu", "tf-8" },
		"key id":       func(p *harebus.Payload) { p.Signature = strings.Replace(p.Signature, "kid=key", "kid=other", 1) },
		"due":          func(p *harebus.Payload) { p.Signature = strings.Replace(p.Signature, "nb=0", "nb=1", 1) },
		"to":           func(p *harebus.Payload) { p.Signature = strings.Replace(p.Signature, "to=/orders", "to=e/orders", 1) },
		"order":        func(p *harebus.Payload) { p.Signature = strings.Replace(p.Signature, "v=1; ", "", 1) + "; v=1" },
		"blank":        func(p *harebus.Payload) { p.Signature += " " },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := *p
			change(&changed)
			keys := ring(t, secret(t, "key", 1), secret(t, "other", 2))
			_, err := admit(t, seal.Sign(keys, all), received(sent()), &changed)
			refused(t, err, "tampered")
		})
	}
}

func TestWrongKeys(t *testing.T) {
	t.Parallel()
	private, public := signing(t, "key", 3)
	_, foreign := signing(t, "key", 4)
	id := sent()
	sealed := protect(t, seal.New(ring(t, secret(t, "key", 1)), all), id)
	signed := protect(t, seal.Sign(ring(t, secret(t, "key", 1)), all), id)
	proved := protect(t, seal.Sign(ring(t, private), all), id)
	for _, c := range []struct {
		name, reason string
		g            harebus.Guard
		p            *harebus.Payload
	}{
		{"sealed, unknown", "", seal.New(ring(t, secret(t, "other", 1)), all), sealed},
		{"sealed, another under this id", "wrong-key", seal.New(ring(t, secret(t, "key", 2)), all), sealed},
		{"sealed, a public key", "wrong-key", seal.New(ring(t, nil, public), all), sealed},
		{"signed, unknown", "", seal.Sign(ring(t, secret(t, "other", 1)), all), signed},
		{"signed, another under this id", "tampered", seal.Sign(ring(t, secret(t, "key", 2)), all), signed},
		{"signed, a public key", "wrong-key", seal.Sign(ring(t, nil, public), all), signed},
		{"ed25519, another under this id", "tampered", seal.Sign(ring(t, nil, foreign), all), proved},
		{"ed25519, a secret", "wrong-key", seal.Sign(ring(t, secret(t, "key", 1)), all), proved},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := admit(t, c.g, received(id), c.p)
			refused(t, err, c.reason)
			if c.reason == "" && !errors.Is(err, seal.ErrUnknownKey) {
				t.Errorf("error %v is no ErrUnknownKey", err)
			}
		})
	}
}

// TestInTheClear: what a policy names must be protected, in the way of the guard.
func TestInTheClear(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "new", 2), secret(t, "retired", 1))
	named := seal.Policy{Types: []string{"PlaceOrder"}, Headers: all.Headers}
	other := seal.Policy{Types: []string{"CancelOrder"}, Headers: all.Headers}
	id := sent()
	plain := payload()
	for name, p := range map[string]*harebus.Payload{
		"plain": plain, "sealed": protect(t, seal.New(keys, all), id), "signed": protect(t, seal.Sign(keys, all), id),
		"retired": protect(t, seal.New(ring(t, secret(t, "retired", 1)), all), id),
	} {
		for kind, policies := range map[string][2]harebus.Guard{"sealed": {seal.New(keys, named), seal.New(keys, other)}, "signed": {seal.Sign(keys, named), seal.Sign(keys, other)}} {
			t.Run(name+" for "+kind, func(t *testing.T) {
				t.Parallel()
				_, err := admit(t, policies[0], received(id), p)
				if ok := name == kind || name == "retired" && kind == "sealed"; ok && err != nil {
					t.Error(err)
				} else if !ok {
					refused(t, err, "in-the-clear")
				}
				if _, err := admit(t, policies[1], received(id), p); err != nil {
					t.Errorf("for a policy that does not name it: %v", err)
				}
			})
		}
	}
	if p := protect(t, seal.New(keys, other), id); !reflect.DeepEqual(p, plain) {
		t.Errorf("a type that the policy does not name was changed to %+v", p)
	}
}

// TestTwoGuards: a message can be sealed and signed, but not twice the same.
func TestTwoGuards(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "k", 1))
	both := guards(keys, all)
	for a, first := range both {
		for b, second := range both {
			p := protect(t, first, sent())
			err := second.Protect(t.Context(), sent(), p)
			if a == b {
				if err == nil {
					t.Errorf("%s twice", a)
				}
				continue
			}
			if err == nil {
				p, err = admit(t, second, received(sent()), p)
			}
			if err == nil {
				p, err = admit(t, first, received(sent()), p)
			}
			if err != nil || string(p.Body) != plaintext {
				t.Errorf("%s and then %s: %v", a, b, err)
			}
		}
	}
}

func TestDestination(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "k", 1))
	anywhere := all
	anywhere.AnyDestination = true
	lax := guards(keys, anywhere)
	for kind, g := range guards(keys, all) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			id := sent()
			moved := received(id)
			moved.Queue = "refunds"
			_, err := admit(t, g, moved, protect(t, g, id))
			refused(t, err, "wrong-destination")
			if _, err := admit(t, lax[kind], moved, protect(t, g, id)); err != nil {
				t.Errorf("with AnyDestination: %v", err)
			}
			event := sent()
			event.Intent, event.Exchange, event.RoutingKey, event.Queue = harebus.IntentEvent, "PikaBusTopic", "order.placed", ""
			r := received(event)
			r.Queue = "refunds"
			if _, err := admit(t, g, r, protect(t, g, event)); err != nil {
				t.Errorf("an event: %v", err)
			}
			foreign := sent()
			foreign.Exchange, foreign.RoutingKey, foreign.Queue = "mine", "key", ""
			if _, err := admit(t, g, received(foreign), protect(t, g, foreign)); err != nil {
				t.Errorf("by an exchange of one's own: %v", err)
			}
		})
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "k", 1))
	aged := all
	aged.MaxAge = time.Hour
	for kind, g := range guards(keys, aged) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				now, due := sent(), sent()
				now.TimeSent, due.TimeSent, due.NotBefore = time.Now(), time.Now(), time.Now().Add(30*time.Minute)
				timeless := sent()
				timeless.TimeSent = time.Time{}
				_, err := admit(t, g, received(timeless), protect(t, g, timeless))
				refused(t, err, "too-old")
				at, deferred := protect(t, g, now), protect(t, g, due)
				for _, step := range []struct {
					minute     int
					first, due string
				}{{59, "", ""}, {61, "too-old", ""}, {89, "too-old", ""}, {91, "too-old", "too-old"}} {
					time.Sleep(time.Until(now.TimeSent.Add(time.Duration(step.minute) * time.Minute)))
					for _, m := range []struct {
						id     *harebus.Identity
						p      *harebus.Payload
						reason string
					}{{now, at, step.first}, {due, deferred, step.due}} {
						if _, err := admit(t, g, received(m.id), m.p); m.reason != "" {
							refused(t, err, m.reason)
						} else if err != nil {
							t.Errorf("after %d minutes: %v", step.minute, err)
						}
					}
				}
			})
		})
	}
}

// TestBoundHeaders: what cannot be bound is not sent.
func TestBoundHeaders(t *testing.T) {
	t.Parallel()
	for kind, g := range guards(ring(t, secret(t, "k", 1)), all) {
		for name, value := range map[string]any{"long": strings.Repeat("x", 4096), "table": map[string]any{"a": 1}, "list": []any{1}} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				id := sent()
				id.Headers["tenant"] = value
				if err := g.Protect(t.Context(), id, payload()); err == nil || strings.Contains(err.Error(), "xxx") {
					t.Errorf("error %v", err)
				}
			})
		}
		for name, value := range map[string]any{
			"nothing": nil, "yes": true, "no": false, "byte": uint8(200), "int8": int8(-1), "int16": int16(-1), "int32": int32(-1),
			"int64": int64(-1), "float32": float32(1.5), "float64": 1.5, "bytes": []byte{0}, "time": time.Unix(1, 0), "4 KiB": strings.Repeat("x", 4000),
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				id := sent()
				id.Headers["tenant"] = value
				if _, err := admit(t, g, received(id), protect(t, g, id)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestNewer: a form of a later release is retried.
func TestNewer(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "k", 1))
	p := protect(t, seal.New(keys, all), sent())
	for at, value := range map[int]byte{3: 9, 4: 2} {
		later := *p
		later.Body = bytes.Clone(p.Body)
		later.Body[at] = value
		_, err := admit(t, seal.New(keys, all), received(sent()), &later)
		refused(t, err, "")
	}
	_, err := admit(t, seal.Sign(keys, all), received(sent()), &harebus.Payload{Signature: "v=2; new"})
	refused(t, err, "")
}

// TestNoKey: a guard that has no usable key sends nothing.
func TestNoKey(t *testing.T) {
	t.Parallel()
	private, public := signing(t, "k", 1)
	for name, g := range map[string]harebus.Guard{
		"none to seal": seal.New(ring(t, nil, secret(t, "k", 1)), all), "none to sign": seal.Sign(ring(t, nil, public), all),
		"seal with a signing key": seal.New(ring(t, private), all), "sign with a public key": seal.Sign(ring(t, public), all),
	} {
		p := payload()
		if err := g.Protect(t.Context(), sent(), p); err == nil || !reflect.DeepEqual(p, payload()) {
			t.Errorf("%s: error %v, payload %+v", name, err, p)
		}
	}
}

// TestMisuse: what is wrong in the program shows at the start.
func TestMisuse(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "k", 1))
	for name, misuse := range map[string]func(){
		"no keys": func() { seal.New(nil, all) }, "age": func() { seal.Sign(keys, seal.Policy{MaxAge: -1}) },
		"header": func() { seal.New(keys, seal.Policy{Headers: []string{""}}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse()
		})
	}
}

// TestRotation: keys are changed in the order of the documentation, and back, and every message can be
// opened at each step by everybody.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, young := secret(t, "old", 1), secret(t, "new", 2)
	steps := []*seal.Keyring{
		ring(t, old), ring(t, old, young), ring(t, young, old), ring(t, old, young), ring(t, young, old), ring(t, young),
	}
	for i, sender := range steps {
		// Services are one step apart while a step is under way.
		for _, receiver := range steps[max(0, i-1):min(len(steps), i+2)] {
			for kind := range guards(sender, all) {
				id := sent()
				p := protect(t, guards(sender, all)[kind], id)
				if _, err := admit(t, guards(receiver, all)[kind], received(id), p); err != nil {
					t.Errorf("step %d, %s: %v", i, kind, err)
				}
			}
		}
	}
	if id, ok := seal.KeyID(protect(t, seal.New(steps[2], all), sent()).Body); id != "new" || !ok {
		t.Errorf("the id of the key is %q, %v", id, ok)
	}
	if id, ok := seal.KeyID([]byte(plaintext)); id != "" || ok {
		t.Errorf("the id of no key is %q, %v", id, ok)
	}
}

// TestAllocations holds the cost of sealing and opening.
func TestAllocations(t *testing.T) {
	g := seal.New(ring(t, secret(t, "2026-11", 1)), seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}})
	id := sent()
	r := received(id)
	ctx := t.Context()
	body := bytes.Repeat([]byte("x"), 256)
	var failed error
	n := testing.AllocsPerRun(200, func() {
		p := harebus.Payload{ContentType: "application/json", ContentEncoding: "utf-8", Body: body}
		failed = errors.Join(failed, g.Protect(ctx, id, &p), g.Admit(ctx, r, &p))
	})
	if n > 18 || failed != nil {
		t.Errorf("%v allocations, want at most 18; %v", n, failed)
	}
	t.Logf("%v allocations", n)
}

func BenchmarkSealOpen(b *testing.B) {
	for kind, g := range guards(ring(b, secret(b, "2026-11", 1)), seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}}) {
		b.Run(kind, func(b *testing.B) {
			id, body := sent(), bytes.Repeat([]byte("x"), 256)
			r := received(id)
			b.ReportAllocs()
			for b.Loop() {
				p := harebus.Payload{ContentType: "application/json", ContentEncoding: "utf-8", Body: body}
				if err := errors.Join(g.Protect(b.Context(), id, &p), g.Admit(b.Context(), r, &p)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
