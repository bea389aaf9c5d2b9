package seal_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus/seal"
)

// service is a key service: wrapped keys are the keys turned over, after a prefix.
type service struct {
	mu                 sync.Mutex
	away               error
	wraps, unwraps     int
	slow               time.Duration
	atOnce, mostAtOnce int
	wrapped            []byte
}

var errAway = errors.New("503 from the key service")

func (s *service) call(count *int) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count++
	s.atOnce++
	s.mostAtOnce = max(s.mostAtOnce, s.atOnce)
	return s.slow, s.away
}

func (s *service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.atOnce--
}

func turn(b []byte) []byte {
	b = bytes.Clone(b)
	for i := range b {
		b[i] ^= 0xff
	}
	return b
}

func (s *service) Wrap(_ context.Context, key []byte) ([]byte, error) {
	slow, err := s.call(&s.wraps)
	defer s.end()
	time.Sleep(slow) // the service takes virtual time
	if s.wrapped != nil {
		return s.wrapped, err
	}
	return append([]byte("master"), turn(key)...), err
}

func (s *service) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	slow, err := s.call(&s.unwraps)
	defer s.end()
	time.Sleep(slow)
	key, ok := bytes.CutPrefix(wrapped, []byte("master"))
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fmt.Errorf("%w: not wrapped here", seal.ErrUnknownKey)
	default:
		return turn(key), nil
	}
}

func (s *service) set(away error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *service) counts() (wraps, unwraps int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wraps, s.unwraps
}

func id(wrapped string) string { return base64.RawURLEncoding.EncodeToString([]byte(wrapped)) }

func TestEnvelope(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kms := &service{slow: time.Millisecond}
		sender, receiver := seal.Envelope(kms), seal.Envelope(kms)
		for kind, g := range guards(sender, all) {
			for range 100 {
				if _, err := admit(t, guards(receiver, all)[kind], received(sent()), protect(t, g, sent())); err != nil {
					t.Fatal(err)
				}
			}
		}
		if wraps, unwraps := kms.counts(); wraps != 1 || unwraps != 1 {
			t.Errorf("%d wraps and %d unwraps for 200 messages", wraps, unwraps)
		}
		// Its own messages need no call.
		if _, err := admit(t, seal.New(sender, all), received(sent()), protect(t, seal.New(sender, all), sent())); err != nil {
			t.Error(err)
		}
		first, err := sender.Current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		second, err := sender.Current(t.Context())
		if err != nil || second.ID() == first.ID() || len(second.ID()) > 100 {
			t.Errorf("after an hour the key is %v, %v", second, err)
		}
		if wraps, unwraps := kms.counts(); wraps != 2 || unwraps != 1 {
			t.Errorf("%d wraps and %d unwraps after an hour", wraps, unwraps)
		}
	})
}

// TestEnvelopeUses: a data key ends after 2^20 messages.
func TestEnvelopeUses(t *testing.T) {
	t.Parallel()
	keys := seal.Envelope(&service{})
	first, err := keys.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 1<<20 - 1 {
		if key, err := keys.Current(t.Context()); key != first || err != nil {
			t.Fatalf("another key, %v", err)
		}
	}
	if key, err := keys.Current(t.Context()); key == first || err != nil {
		t.Errorf("the same key after 2^20 messages, %v", err)
	}
}

// TestEnvelopeOutage: the key in use serves for a day when the service is away, few calls are
// made, and everything goes on when it is back.
func TestEnvelopeOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kms := &service{}
		keys, strange := seal.Envelope(kms), seal.Envelope(kms)
		first, err := keys.Current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kms.set(errAway)
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			if key, err := keys.Current(t.Context()); key != first || err != nil {
				t.Fatalf("after %v: %v, %v", time.Since(began), key, err)
			}
			if _, err := strange.Key(t.Context(), first.ID()); !errors.Is(err, errAway) {
				t.Fatalf("after %v: error %v", time.Since(began), err)
			}
			if _, err := strange.Current(t.Context()); !errors.Is(err, errAway) {
				t.Fatalf("after %v: error %v", time.Since(began), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if wraps, unwraps := kms.counts(); wraps > 30 || unwraps > 30 {
			t.Errorf("%d wraps and %d unwraps in an outage of ten minutes", wraps, unwraps)
		}
		time.Sleep(time.Hour)
		if key, err := keys.Current(t.Context()); key != first || err != nil {
			t.Errorf("the old key does not serve after an hour: %v, %v", key, err)
		}
		kms.set(nil)
		time.Sleep(time.Minute)
		if key, err := keys.Current(t.Context()); key == first || err != nil {
			t.Errorf("when the service is back: %v, %v", key, err)
		}
		if _, err := strange.Key(t.Context(), first.ID()); err != nil {
			t.Errorf("when the service is back: %v", err)
		}
		kms.set(errAway)
		time.Sleep(25 * time.Hour)
		if _, err := keys.Current(t.Context()); !errors.Is(err, errAway) {
			t.Errorf("a key of yesterday serves: %v", err)
		}
	})
}

// TestEnvelopeStrangers: key ids that anybody can write cause few calls and take little memory.
func TestEnvelopeStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kms := &service{slow: time.Second}
		keys := seal.Envelope(kms)
		for _, bad := range []string{"", "no base64!", "AB", strings.Repeat("A", 1100)} {
			if _, err := keys.Key(t.Context(), bad); !errors.Is(err, seal.ErrUnknownKey) {
				t.Errorf("%.20q: %v", bad, err)
			}
		}
		if _, unwraps := kms.counts(); unwraps != 0 {
			t.Errorf("%d calls for ids that are no wrapped keys", unwraps)
		}
		_, before := kms.counts()
		var wg sync.WaitGroup
		for i := range 20 {
			for range 10 {
				wg.Go(func() {
					if _, err := keys.Key(t.Context(), id(fmt.Sprint("strange", i))); !errors.Is(err, seal.ErrUnknownKey) {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if _, unwraps := kms.counts(); unwraps-before != 20 || kms.mostAtOnce != 4 {
			t.Errorf("%d calls for 20 ids, %d at once", unwraps-before, kms.mostAtOnce)
		}
		if _, err := keys.Key(t.Context(), id("master short")); !errors.Is(err, seal.ErrUnknownKey) {
			t.Errorf("a key of a wrong length: %v", err)
		}
		kms.slow = 0
		good := id("master" + string(turn(bytes.Repeat([]byte{1}, 32))))
		if _, err := keys.Key(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		for i := range 3000 { // more than are kept
			if _, err := keys.Key(t.Context(), id(fmt.Sprint("more", i))); err == nil {
				t.Fatal("a strange key")
			}
		}
		_, before = kms.counts()
		if _, err := keys.Key(t.Context(), good); err != nil {
			t.Error(err)
		}
		if _, unwraps := kms.counts(); unwraps != before {
			t.Error("strange ids have pushed out a good key")
		}
		kms.slow = time.Millisecond
		for i := range 1100 { // good ones, of which 1,000 are kept
			if _, err := keys.Key(t.Context(), id("master"+fmt.Sprintf("%032d", i))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := keys.Key(t.Context(), good); err != nil {
			t.Error(err)
		}
		if _, unwraps := kms.counts(); unwraps != before+1101 {
			t.Errorf("%d calls for 1,101 keys", unwraps-before)
		}
	})
}

// TestEnvelopeWaiting: who waits for a call of another does not wait longer than its context.
func TestEnvelopeWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys := seal.Envelope(&service{slow: time.Minute})
		done := make(chan error)
		go func() {
			_, err := keys.Current(t.Context())
			done <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := keys.Current(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestWrongWrapped: what a key service wraps must fit into a message.
func TestWrongWrapped(t *testing.T) {
	t.Parallel()
	for _, wrapped := range [][]byte{{}, make([]byte, 769)} {
		if _, err := seal.Envelope(&service{wrapped: wrapped}).Current(t.Context()); err == nil {
			t.Errorf("%d bytes", len(wrapped))
		}
	}
}
