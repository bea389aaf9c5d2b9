package seal

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
)

// Policy says which messages a guard protects, and what it accepts. Sender and receiver need
// the same Headers.
//
// To protect messages of services that run already, first give each service its guard with a
// zero Policy: it opens what is sealed and lets everything else through. Then name the types
// where they are sent. Name them where they are received when no queue holds one in the clear
// any more.
type Policy struct {
	// Types are the wire names of the types that are protected when sent, and refused when
	// they come unprotected. "*" stands for all. With none, nothing is protected or
	// required, but what comes protected is still opened and verified.
	Types []string
	// Headers are the custom headers that are bound to the message, as "tenant": they cannot
	// be changed, added or removed. A message whose bound headers take more than 4 KiB
	// is not sent. Headers that something changes on the way cannot be bound, such as
	// those of tracing and most standard ones; "PikaBus.Environment" can.
	Headers []string
	// MaxAge is how old a message may be when it is handled, by the time at which it was
	// sent or, if it is later, for which it was deferred. Retries and messages moved back
	// from the error queue count as old as they are, so it must be longer than the retries
	// take. Within it a message can be sent again by somebody who has a copy:
	// an inbox that keeps ids for as long finds that. Zero accepts every age.
	MaxAge time.Duration
	// AnyDestination accepts commands that were sent to another queue.
	AnyDestination bool
	// Details lets the errors of sealed messages reach the error queue, logs and
	// observers with their texts, which may quote the message. Without it they have none.
	Details bool
}

// rules are a policy that is ready to use.
type rules struct {
	keys    Keys
	all     bool
	types   map[string]bool
	binding binding
	Policy

	away atomic.Int64 // since when no key could be had, in nanoseconds since 1970; 0: no trouble
}

// newRules checks the policy. What is wrong with it is a fault of the program.
func newRules(keys Keys, p Policy) *rules {
	switch {
	case keys == nil:
		panic("seal: no keys")
	case p.MaxAge < 0:
		panic(fmt.Sprintf("seal: Policy.MaxAge %v is negative", p.MaxAge))
	case slices.Contains(p.Headers, ""):
		panic("seal: Policy.Headers has an empty name")
	}
	r := &rules{keys: keys, Policy: p, types: map[string]bool{}, binding: newBinding(p.Headers)}
	for _, name := range p.Types {
		r.types[name] = true
	}
	r.all = r.types["*"]
	return r
}

// Bound returns the bound headers, which copies of a message keep as long as others can be left out.
func (r *rules) Bound() []string { return r.binding.names }

func (r *rules) covers(messageType string) bool { return r.all || r.types[messageType] }

// destination is where a message is sent, as it is bound: a command to a queue has no exchange
// and the queue's name, because the bus chooses between two exchanges for it.
func destination(id *harebus.Identity) (exchange, key string) {
	if id.Queue != "" {
		return "", id.Queue
	}
	return id.Exchange, id.RoutingKey
}

// arrived checks what only an authentic message can say: where it was sent, and when.
func (r *rules) arrived(id *harebus.Identity, exchange, key []byte, notBefore int64) error {
	if len(exchange) == 0 && id.Intent != harebus.IntentEvent && string(key) != id.Queue && !r.AnyDestination {
		return reject("wrong-destination", "the command was sent to queue %q and came out of %q", key, id.Queue)
	}
	if r.MaxAge == 0 {
		return nil
	}
	since := id.TimeSent
	if due := moment(notBefore); due.After(since) {
		since = due
	}
	if age := time.Since(since); age > r.MaxAge {
		return reject("too-old", "the message is older than %v", r.MaxAge)
	}
	return nil
}

// troubled makes the error of keys the error of a message. Only an unknown key is
// a failure. Otherwise the message waits, because a key service that is away must not send every
// message to the error queue: for half a minute at first, and up to five when it stays away.
func (r *rules) troubled(err error) error {
	if errors.Is(err, ErrUnknownKey) {
		return fmt.Errorf("seal: %w", err)
	}
	now := time.Now()
	r.away.CompareAndSwap(0, now.UnixNano())
	pause := now.Sub(time.Unix(0, r.away.Load())) / 2
	return harebus.Postpone(min(max(pause, 30*time.Second), 5*time.Minute), fmt.Errorf("seal: %w", err))
}

// untroubled notes that keys can be had.
func (r *rules) untroubled() {
	if r.away.Load() != 0 {
		r.away.Store(0)
	}
}

// reject parks a message.
func reject(reason, format string, args ...any) error {
	return &harebus.RejectError{Reason: reason, Err: fmt.Errorf(format, args...)}
}
