package dedup

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"
)

// key is what is kept of an id.
type key [16]byte

func keyOf(id string) key {
	sum := sha256.Sum256([]byte(id))
	return key(sum[:16])
}

// ids are those of messages that are handled, and that are being handled here.
type ids struct {
	mu      sync.Mutex // guards what follows
	handled map[key]int64
	current map[key]chan struct{} // closed when it is over
}

func newIDs() *ids { return &ids{handled: map[key]int64{}, current: map[key]chan struct{}{}} }

// add notes that a message is handled.
func (i *ids) add(id string, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handled[keyOf(id)] = at.Unix()
}

// begin says whether a message is handled already. If not, end is to be called with what has become of it; until then copies
// wait.
func (i *ids) begin(ctx context.Context, id string) (end func(done bool), known bool, err error) {
	k := keyOf(id)
	for {
		i.mu.Lock()
		_, known := i.handled[k]
		other := i.current[k]
		if !known && other == nil {
			over := make(chan struct{})
			i.current[k] = over
			i.mu.Unlock()
			return func(done bool) { i.end(k, over, done) }, false, nil
		}
		i.mu.Unlock()
		if known {
			return nil, true, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

func (i *ids) end(k key, over chan struct{}, done bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.current, k)
	if done {
		i.handled[k] = time.Now().Unix()
	}
	close(over)
}

// forget drops what is older than a time.
func (i *ids) forget(before time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k, at := range i.handled {
		if at < before.Unix() {
			delete(i.handled, k)
		}
	}
}
