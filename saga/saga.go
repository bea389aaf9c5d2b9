package saga

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"
	"weak"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// Config configures a saga.
type Config struct {
	// Name is that of the saga in its store, such as "order". It must be set, and must not
	// change while there are instances.
	Name string
	// Store keeps the instances: [SQL], or one of your own. It must be set.
	Store Store
	// Version is the version of the state's type. Raise it when you remove a field from the
	// type. A message fails with ErrState if the stored state has a higher version, or the same
	// version and a field that the type does not have: saving would lose that field. Default: 0.
	Version int
	// Unknown handles a message of an On step whose key has no instance, and no completed one
	// that is still remembered. If it returns nil, the message is dropped; an error counts as
	// that of the handler, so harebus.NoRetry parks the message. What it sends with bus is sent if it returns nil. Default: the
	// message failed with ErrUnknown, so it is retried by the retry policy, because the message
	// that starts the instance may come later, and then parked.
	Unknown func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error
	// Logger is told, at info level, of each message that is dropped because it came late.
	// Default: nothing is logged.
	Logger *zap.Logger
}

// ErrUnknown says that a message is for a key that has no instance.
var ErrUnknown = errors.New("there is no instance with this key")

const maxBytes = 255 // of a name or a key

// saga is what a Config and its steps make.
type saga struct {
	Config

	name     string
	timeouts map[reflect.Type]bool // the types for which there is an OnTimeout
}

// Register registers the steps of a saga as handlers on a [harebus.Setup] or an
// [harebus.Endpoint]. Its error has every fault of cfg, of the steps and of the type of the
// state; then no step is registered. Setup.Start reports what only it can know: a type that
// has another handler on the same endpoint, and an endpoint without Handling.Transactor.
func Register[S any](on harebus.Registrar, cfg Config, steps ...Step[S]) error {
	s := &saga{Config: cfg, name: cfg.Name, timeouts: map[reflect.Type]bool{}}
	if s.Logger == nil {
		s.Logger = zap.NewNop()
	}
	faults := s.faults()
	faults = append(faults, stateFaults(reflect.TypeFor[S]())...)
	faults = append(faults, stepFaults(steps)...)
	if len(faults) == 0 {
		faults = append(faults, remember(on, cfg.Name))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("saga: register %q: %w", cfg.Name, err)
	}
	for _, step := range steps {
		if step.kind == times {
			s.timeouts[step.message] = true
		}
	}
	for _, step := range steps {
		step.register(s, on)
	}
	return nil
}

func (s *saga) faults() (faults []error) {
	if err := checkText(s.Name); err != nil {
		faults = append(faults, fmt.Errorf("Config.Name %w", err))
	}
	if s.Store == nil {
		faults = append(faults, errors.New("Config.Store is nil"))
	}
	if s.Version < 0 {
		faults = append(faults, fmt.Errorf("Config.Version %d is negative", s.Version))
	}
	return faults
}

// checkText says whether databases can have text as a name or a key.
func checkText(text string) error {
	switch {
	case text == "":
		return errors.New("is empty")
	case len(text) > maxBytes:
		return fmt.Errorf("has %d bytes, more than %d", len(text), maxBytes)
	case !utf8.ValidString(text) || strings.Contains(text, "\x00"):
		return errors.New("is not valid UTF-8, or has the byte 0")
	}
	return nil
}

func stepFaults[S any](steps []Step[S]) (faults []error) {
	starts := false
	known := map[string]kind{}
	for n, step := range steps {
		if step.kind == 0 {
			step.fault = errors.New("the zero Step; make one with Start, On or OnTimeout")
		}
		if step.fault != nil {
			faults = append(faults, fmt.Errorf("step %d: %w", n+1, step.fault))
			continue
		}
		starts = starts || step.kind == start
		other, twice := known[step.name]
		switch {
		case step.name == "": // Start of the setup knows the name
			continue
		case !twice:
		case other != step.kind:
			faults = append(faults, fmt.Errorf("step %d: messages of type %q have steps of %v and %v; a Start also continues an instance that runs, and a timeout needs a type of its own", n+1, step.name, other, step.kind))
		default:
			faults = append(faults, fmt.Errorf("step %d: messages of type %q have a step of %v already", n+1, step.name, step.kind))
		}
		known[step.name] = step.kind
	}
	if !starts {
		faults = append(faults, errors.New("no step is made by Start, so there would never be an instance"))
	}
	return faults
}

// registered are the names of the sagas on each setup and endpoint.
var registered struct {
	mu    sync.Mutex
	names map[any]map[string]bool // by weak pointer, so that setups can be collected
}

// remember refuses a second saga of one name.
func remember(on harebus.Registrar, name string) error {
	switch on := on.(type) {
	case *harebus.Setup:
		return rememberOn(on, name)
	case *harebus.Endpoint:
		return rememberOn(on, name)
	}
	return fmt.Errorf("on is a %T; it must be a *harebus.Setup or a *harebus.Endpoint", on)
}

func rememberOn[T any](on *T, name string) error {
	if on == nil {
		return fmt.Errorf("on is a nil %T", on)
	}
	key := weak.Make(on)
	registered.mu.Lock()
	defer registered.mu.Unlock()
	if registered.names == nil {
		registered.names = map[any]map[string]bool{}
	}
	names := registered.names[key]
	if names[name] {
		return errors.New("there is a saga of this name already; they would share their instances")
	}
	if names == nil {
		names = map[string]bool{}
		registered.names[key] = names
		runtime.AddCleanup(on, func(key weak.Pointer[T]) {
			registered.mu.Lock()
			defer registered.mu.Unlock()
			delete(registered.names, key)
		}, key)
	}
	names[name] = true
	return nil
}
