// Package claim keeps large bodies out of the broker: a [harebus.Guard] stores the body and
// sends a reference (the pattern is known as claim check).
//
//	store, err := claim.OpenDir("/srv/claims")
//	…
//	guard, err := claim.New(claim.Config{Store: store})
//	…
//	guard.Use(&cfg) // after a guard that encrypts
package claim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/harebus/harebus"
)

// ContentType is that of a message whose body is a reference.
const ContentType = "application/vnd.harebus.claim"

// ErrNotFound is the error of a [Store] that has nothing under a key.
var ErrNotFound = errors.New("there is no such body")

// Store keeps bodies. It is safe for concurrent use.
type Store interface {
	// Put stores a body under a key that is new. When it returns nil, the body must not be
	// lost any more.
	Put(ctx context.Context, key string, body []byte) error
	// Get returns the body of a key. It fails with [ErrNotFound] if there is none, and with
	// [harebus.ErrBodyTooLarge], before it has read it, if the body has more than limit bytes.
	Get(ctx context.Context, key string, limit int) ([]byte, error)
}

// Config configures a guard.
type Config struct {
	// Store keeps the bodies.
	Store Store
	// Name is the name of the store in the references. Services that share a store give it
	// the same name. Default: "default".
	Name string
	// From is the size of the smallest body that is stored, in bytes, after compression.
	// Default: 256 KiB.
	From int
	// MaxBody is the largest body that is fetched, in bytes. Default: 16 MiB, the default of
	// Payload.MaxBody.
	MaxBody int
	// Patience is how long a message whose body is not found is retried, counted from the
	// time when it was sent: some stores show a new body late. After that it is parked as
	// "claim-missing". Default: 1 minute.
	Patience time.Duration
	// DeleteHandled is how long after a command was handled its body is deleted, if the Store is a
	// [Deleter]. Within this time the broker may deliver the command again, because its
	// acknowledgement was lost; afterwards such a message is parked as "claim-missing". Bodies
	// of events are never deleted, because an event has several receivers, nor those of a
	// process that ends before their time. Do not set it for commands that more than one
	// queue gets, nor for those that a handler passes on as they are ([harebus.Message.Envelope]):
	// the copy has the same reference. Default: nothing is deleted.
	DeleteHandled time.Duration
}

// Guard stores large bodies and fetches them. As an observer it looks after bodies whose
// messages have been handled or parked.
type Guard struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	stats    Stats
	due      []dueBody // in the order of their times
	deleting bool      // a goroutine works on due
	stop     chan struct{}
	closed   bool
	work     sync.WaitGroup
}

// New returns a guard that stores large bodies. It goes behind guards that encrypt or sign,
// so that the store has what the broker would have had.
func New(c Config) (*Guard, error) {
	if c.Store == nil {
		return nil, errors.New("claim: Config.Store is nil")
	}
	if c.Name == "" {
		c.Name = "default"
	}
	if c.From == 0 {
		c.From = 256 << 10
	}
	if c.MaxBody == 0 {
		c.MaxBody = 16 << 20
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	switch {
	case len(c.Name) > maxText:
		return nil, fmt.Errorf("claim: Config.Name has more than %d bytes", maxText)
	case c.From < 1024:
		return nil, fmt.Errorf("claim: Config.From %d is less than 1024: a reference would be larger than the body", c.From)
	case c.MaxBody < c.From:
		return nil, fmt.Errorf("claim: Config.MaxBody %d is less than Config.From %d", c.MaxBody, c.From)
	case c.Patience < 0:
		return nil, fmt.Errorf("claim: Config.Patience %v is negative", c.Patience)
	case c.DeleteHandled < 0:
		return nil, fmt.Errorf("claim: Config.DeleteHandled %v is negative", c.DeleteHandled)
	}
	if _, ok := c.Store.(Deleter); c.DeleteHandled > 0 && !ok {
		return nil, fmt.Errorf("claim: Config.DeleteHandled needs a store that can delete, and a %T cannot", c.Store)
	}
	return &Guard{cfg: c, stop: make(chan struct{})}, nil
}

// Use adds the guard to the guards and the observers of a service. Guards that encrypt or sign
// must be there already.
func (g *Guard) Use(cfg *harebus.Config) {
	cfg.Payload.Guards = append(slices.Clip(cfg.Payload.Guards), g)
	cfg.Observers = append(slices.Clip(cfg.Observers), g)
}

// Protect stores a large body, before its message is sent. The key is random: a redelivered
// message sends the same id again, perhaps with another body, and must not replace the first.
func (g *Guard) Protect(ctx context.Context, _ *harebus.Identity, p *harebus.Payload) error {
	if len(p.Body) < g.cfg.From {
		return nil
	}
	key := time.Now().UTC().Format("2006/01/02/") + uuid.NewString()
	r := reference{g.cfg.Name, key, int64(len(p.Body)), sha256.Sum256(p.Body), p.ContentType, p.ContentEncoding}
	body, err := r.encode()
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	if err := g.cfg.Store.Put(ctx, key, p.Body); err != nil {
		return fmt.Errorf("claim: store a body of %d bytes: %w", len(p.Body), err)
	}
	p.Body, p.ContentType, p.ContentEncoding = body, ContentType, ""
	return nil
}

// Admit fetches the body.
func (g *Guard) Admit(ctx context.Context, id *harebus.Identity, p *harebus.Payload) error {
	if p.ContentType != ContentType {
		return nil
	}
	r, err := decode(p.Body)
	if errors.Is(err, errNewer) {
		return err // another instance may know it
	}
	if err == nil {
		err = g.check(r)
	}
	if err != nil {
		return &harebus.RejectError{Reason: "bad-claim", Err: err}
	}
	if r.size > int64(g.cfg.MaxBody) {
		return &harebus.RejectError{Reason: "too-large", Err: fmt.Errorf("the stored body has %d bytes, more than %d", r.size, g.cfg.MaxBody)}
	}
	body, err := g.cfg.Store.Get(ctx, r.key, int(r.size))
	switch {
	case errors.Is(err, ErrNotFound) && time.Since(id.TimeSent) > g.cfg.Patience:
		return &harebus.RejectError{Reason: "claim-missing", Err: fmt.Errorf("the store has no body for %s", r.key)}
	case err != nil && !errors.Is(err, harebus.ErrBodyTooLarge):
		return fmt.Errorf("claim: fetch the body %s: %w", r.key, err)
	case err != nil, int64(len(body)) != r.size, sha256.Sum256(body) != r.sum:
		return &harebus.RejectError{Reason: "bad-claim", Err: fmt.Errorf("the stored body %s is not the one that was sent", r.key)}
	}
	p.Body, p.ContentType, p.ContentEncoding = body, r.contentType, r.contentEncoding
	return nil
}

var keys = regexp.MustCompile(`^[0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// check refuses a reference that New's guards do not write, before the store is asked.
func (g *Guard) check(r reference) error {
	switch {
	case r.store != g.cfg.Name:
		return fmt.Errorf("the body is in a store named %.80q, and the one here is %q", r.store, g.cfg.Name)
	case !keys.MatchString(r.key):
		return fmt.Errorf("%.80q is no key of a stored body", r.key)
	case r.size < 1:
		return fmt.Errorf("a stored body cannot have %d bytes", r.size)
	}
	return nil
}
