package saga_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

// written is a store whose instances were written by somebody else.
type written struct {
	saga.Store
	record saga.Record
	mu     sync.Mutex
	saved  []saga.Record
}

func (w *written) Load(context.Context, string, string, bool) (saga.Record, error) {
	return w.record, nil
}

func (w *written) Save(_ context.Context, _, _ string, r saga.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saved = append(w.saved, r)
	return nil
}

// TestStoredState: a state that this program cannot read, or would lose a part of, is an error
// that says what to do. Nothing is saved, and the message is parked after its retries.
func TestStoredState(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format  int
		state   string
		details string // of the error; empty: it is read
		saved   string
	}{
		"same":           {2, `{"Paid":5,"Parts":null}`, "", `{"Paid":6,"Parts":[1]}`},
		"completed":      {2, `{"Paid":99}`, "", ``},
		"field missing":  {2, `{}`, "", `{"Paid":1,"Parts":[1]}`},
		"field unknown":  {2, `{"Paid":5,"Coupon":"X"}`, `unknown field "Coupon"; if a newer program wrote it, update this one; to do without a field, raise Config.Version`, ""},
		"older":          {1, `{"Paid":5,"Coupon":"X"}`, "", `{"Paid":6,"Parts":[1]}`},
		"newer":          {3, `{"Paid":5}`, "it was written by version 3, this program has version 2", ""},
		"other type":     {2, `{"Paid":"five"}`, "cannot unmarshal string", ""},
		"damaged":        {2, `{"Paid":5`, "unexpected EOF", ""},
		"followed":       {2, `{"Paid":5}{}`, "something follows", ""},
		"older, damaged": {1, `[]`, "cannot unmarshal array", ""},
		"empty":          {2, ``, "the state cannot be read: EOF", ""},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			w := &written{record: saga.Record{Version: 4, Run: "one", Format: c.format, State: []byte(c.state)}}
			register := func(setup *harebus.Setup, store saga.Store) error {
				w.Store = store
				return saga.Register(setup, saga.Config{Name: "order", Store: w, Version: 2}, steps()...)
			}
			sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
				s.Send(paid{"7", 1})
				s.Finish()
				if c.details != "" {
					contains(t, details(s), `saga: order: key "7": the state cannot be read`, c.details)
					want(t, "parked", bodies(s, sagatest.Parked), `{"Order":"7","Amount":1}`)
					if len(w.saved) != 0 {
						t.Errorf("saved %+v", w.saved)
					}
					return
				}
				if len(w.saved) != 1 || string(w.saved[0].State) != c.saved || w.saved[0].Done != (c.saved == "") || w.saved[0].Format != 2 || w.saved[0].Version != 4 || w.saved[0].Run != "one" {
					t.Errorf("saved %+v; %s", w.saved, details(s))
				}
			}, "shop")
		})
	}
}

// TestDigits: numbers in fields of type any keep all digits.
func TestDigits(t *testing.T) {
	t.Parallel()
	type loose struct{ Any map[string]any }
	w := &written{record: saga.Record{Version: 1, Run: "one", State: []byte(`{"Any":{"n":9007199254740993}}`)}}
	register := func(setup *harebus.Setup, store saga.Store) error {
		w.Store = store
		return saga.Register(setup, saga.Config{Name: "order", Store: w},
			saga.Start(placedKey, func(_ context.Context, o *saga.Instance[loose], _ placed) error {
				o.State.Any["text"] = "<&>"
				return nil
			}))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"})
		if len(w.saved) != 1 {
			t.Fatal(details(s))
		}
		want(t, "saved", string(w.saved[0].State), `{"Any":{"n":9007199254740993,"text":"<&>"}}`)
	})
}

// Types of states that cannot be kept.
type (
	hidden   struct{ amount int } //nolint:unused // that is what the test is about
	function struct{ Done func() }
	channels struct{ Inner []struct{ C chan int } }
	twice    struct {
		A int `json:"B"`
		B int
	}
	writeOnly struct{ W onlyWrites }
	iface     struct{ E error }
	keys      struct{ M map[[2]int]string }

	onlyWrites struct{}
	nested     struct {
		hiddenBase

		Raw   json.RawMessage
		Next  *nested
		Skip  func() `json:"-"`
		Any   any
		ByInt map[int]*nested
	}
	hiddenBase struct{ Base int }
)

func (onlyWrites) MarshalJSON() ([]byte, error) { return []byte("1"), nil }

// registerState registers a saga of one step with a state of the type S.
func registerState[S any](setup *harebus.Setup) error {
	return saga.Register(setup, saga.Config{Name: "x", Store: sagatest.NewStore()},
		saga.Start(placedKey, func(context.Context, *saga.Instance[S], placed) error { return nil }))
}

type (
	billing  struct{ City string }
	shipping struct{ City string }
	// JSON has none of the two cities.
	ambiguous struct {
		billing
		shipping
	}
	// JSON has only one of the two cities.
	shadowed struct {
		City string
		billing
	}
	Loop struct {
		*Loop
		N int
	}
	// JSON has only the time.
	stamped struct {
		time.Time
		N int
	}
	// JSON has everything.
	apart struct {
		billing
		To   shipping
		From shipping `json:"city"`
		Day  day
	}
	day struct{ time.Time }
)

// TestStateTypes: a type of which a part would not be kept is refused at once.
func TestStateTypes(t *testing.T) {
	t.Parallel()
	for fault, register := range map[string]func(*harebus.Setup) error{
		"state: saga_test.hidden.amount is not exported":                                                  registerState[hidden],
		"state: saga_test.function.Done is of type func(), which JSON cannot have":                        registerState[function],
		"Inner[…].C is of type chan int":                                                                  registerState[channels],
		"B has the same name in JSON as the field saga_test.twice.A":                                      registerState[twice],
		"ambiguous.shipping.City has the same name in JSON as the field saga_test.ambiguous.billing.City": registerState[ambiguous],
		"shadowed.billing.City has the same name":                                                         registerState[shadowed],
		"Loop.Loop embeds itself":                                                                         registerState[Loop],
		"stamped embeds Time, whose methods write and read the JSON of the whole":                         registerState[stamped],
		" ": registerState[apart],
		"W has a method for only one of writing and reading":           registerState[writeOnly],
		"E is of the interface type error":                             registerState[iface],
		"M has keys of type [2]int":                                    registerState[keys],
		"the state is of type int, which is not a struct":              registerState[int],
		"the state is of type *saga_test.order, which is not a struct": registerState[*order],
		"": registerState[nested],
	} {
		setup, err := harebus.New(harebus.Config{Queue: "x"})
		if err != nil {
			t.Fatal(err)
		}
		err = register(setup)
		if strings.TrimSpace(fault) == "" && err != nil {
			t.Error(err)
		}
		if strings.TrimSpace(fault) != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%v, want %q", err, fault)
		}
	}
}
