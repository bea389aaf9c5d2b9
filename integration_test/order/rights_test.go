package order_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ordered"
	"github.com/harebus/harebus/order"
)

// documented reads the permissions below a heading of docs/ordering.md.
func documented(t *testing.T, heading string) (configure, write, read string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/ordering.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), heading)
	block := regexp.MustCompile("```\nconfigure  (.*)\nwrite      (.*)\nread       (.*)\n```").FindStringSubmatch(rest)
	if !found || block == nil {
		t.Fatalf("docs/ordering.md has no permissions below %q", heading)
	}
	return block[1], block[2], block[3]
}

// rights is a service whose user may do what is documented, or less.
type rights struct {
	*testing.T
	node *rabbit.Node
	done atomic.Int64
}

// grants are what users may do: configure, write and read.
type grants map[string][3]string

// make makes the users.
func (g grants) make(r *rights) {
	r.Helper()
	var users []string
	for name, may := range g {
		users = append(users, fmt.Sprintf("{<<%q>>, <<%q>>, <<%q>>, <<%q>>}", name, may[0], may[1], may[2]))
	}
	out, err := r.node.Eval(r.Context(), fmt.Sprintf(`[begin
		ok = rabbit_auth_backend_internal:add_user(User, <<"secret">>, <<"test">>),
		ok = rabbit_auth_backend_internal:set_permissions(User, <<"/">>, Configure, Write, Read, <<"test">>)
	end || {User, Configure, Write, Read} <- [%s]].`, strings.Join(users, ", ")))
	if err != nil || strings.Count(out, "ok") != len(g) {
		r.Fatalf("%v: %s", err, out)
	}
}

// as is the URL with which a user logs in.
func (r *rights) as(name string) string {
	r.Helper()
	u, err := url.Parse(r.node.URL())
	if err != nil {
		r.Fatal(err)
	}
	u.User = url.UserPassword(name, "secret")
	return u.String()
}

// instance is one of the service "orders". The second message of a key fails once, the third always.
func (r *rights) instance(url string, mode harebus.DeclareMode) *harebus.Setup {
	r.Helper()
	s, err := harebus.New(harebus.Config{
		URL: url, Queue: "orders", Logger: zap.NewNop(), ErrorQueue: harebus.ErrorQueueConfig{Name: "error"}, Declare: harebus.DeclareConfig{Mode: mode},
		Consume: harebus.ConsumeConfig{Order: &order.Config{}},
		Retry:   harebus.RetryConfig{MaxRetries: 1, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(50 * time.Millisecond) }},
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = s.Close() }) // it may have been closed
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, one step) error {
		if one.N == 3 || one.N == 2 && harebus.Incoming(ctx).Attempt == 1 {
			return errPlanned
		}
		r.done.Add(1)
		return nil
	})
	return s
}

func (r *rights) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("%s: not within a minute", what)
		}
	}
}

// works: the service handles, retries and holds messages, and another instance takes over.
func (r *rights) works(url string, mode harebus.DeclareMode, key string) {
	r.Helper()
	r.done.Store(0)
	first := r.instance(url, mode)
	if err := first.Start(r.Context()); err != nil {
		r.Fatal(err)
	}
	for n := range 4 {
		if err := first.Bus().Send(r.Context(), "orders", step{key, n + 1}, harebus.WithKey(key)); err != nil {
			r.Fatal(err)
		}
	}
	held := func(s *harebus.Setup) func() bool {
		return func() bool {
			for _, k := range s.Parked() {
				if k.Key == key && k.Held && k.Waiting == 2 {
					return true
				}
			}
			return false
		}
	}
	r.until("the third message holds its key", held(first))
	if n := r.done.Load(); n != 2 {
		r.Errorf("%d are done", n)
	}
	if err := first.Close(); err != nil {
		r.Fatal(err)
	}
	second := r.instance(url, mode)
	if err := second.Start(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.until("it is held by the next owner, too", held(second))
	if err := second.Close(); err != nil {
		r.Fatal(err)
	}
}

// TestRights: the permissions that docs/ordering.md names are enough for an ordered endpoint, and those on the parking queue are needed: without
// one of them Start fails and names the queue.
func TestRights(t *testing.T) {
	r := &rights{T: t, node: rabbit.Shared(t)}
	configure, write, read := documented(t, "### A service with an ordered queue")
	_, mayWrite, mayRead := documented(t, "With `CheckOnly`")
	const piece = `orders\.parked|`
	users := grants{
		"service": {configure, write, read}, "checking": {"^$", mayWrite, mayRead},
		"no-configure": {strings.Replace(configure, piece, "", 1), write, read}, "no-read": {configure, write, strings.Replace(read, piece, "", 1)},
	}
	users.make(r)
	r.works(r.as("service"), harebus.DeclareAll, "a")
	for _, name := range []string{"no-configure", "no-read"} {
		if users[name] == users["service"] {
			t.Fatalf("%s may all", name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := r.instance(r.as(name), harebus.DeclareAll).Start(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "orders.parked") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.works(r.as("checking"), harebus.CheckOnly, "b")
}

// TestParkedRights: the permissions that docs/ordering.md names for the command parked are enough, with partitions and without; without one of
// them the error names it.
func TestParkedRights(t *testing.T) {
	r := &rights{T: t, node: rabbit.Shared(t)}
	configure, write, read := documented(t, "## When a key is held")
	configure, write, read = strings.ReplaceAll(configure, "orders", "words"), strings.ReplaceAll(write, "orders", "words"), strings.ReplaceAll(read, "orders", "words2?")
	grants{
		"operator": {configure, write, read}, "no-word": {configure, strings.Replace(write, `amq\.default|`, "", 1), read}, "no-look": {configure, write, `^amq\.gen-`},
	}.make(r)
	for _, partitions := range []int{0, 2} {
		queue := []string{"words", "", "words2"}[partitions]
		s, err := harebus.New(harebus.Config{
			URL: r.node.URL(), Queue: queue, Logger: zap.NewNop(), Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: partitions}}, Retry: harebus.RetryConfig{MaxRetries: -1},
		})
		if err != nil {
			t.Fatal(err)
		}
		harebus.Handle(s, func(context.Context, *harebus.Bus, step) error { return errPlanned })
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a", "b", "c"} {
			if err := s.Bus().Send(t.Context(), queue, step{key, 1}, harebus.WithKey(key)); err != nil {
				t.Fatal(err)
			}
		}
		r.until("three keys are held", func() bool { return len(s.Parked()) == 3 })
		as := func(name string) *ordered.Options {
			return &ordered.Options{Broker: access.Broker{URLs: []string{r.as(name)}}, Queue: queue, HeaderPrefix: "PikaBus.", Timeout: 10 * time.Second}
		}
		if n, err := as("operator").Say(t.Context(), "discard", "a"); n != 1 || err != nil {
			t.Errorf("%s: %d, %v", queue, n, err)
		}
		if _, err := as("no-word").Say(t.Context(), "discard", "b"); err == nil || !strings.Contains(err.Error(), "write to amq.default") {
			t.Errorf("%s without write: %v", queue, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if keys, err := as("operator").List(t.Context()); len(keys) != 2 || err != nil {
			t.Errorf("%s: %+v, %v", queue, keys, err)
		}
		if _, err := as("no-look").List(t.Context()); err == nil || !strings.Contains(err.Error(), queue+".") || !strings.Contains(err.Error(), "refused for user 'no-look'") {
			t.Errorf("%s without read: %v", queue, err)
		}
		if _, err := as("operator").Say(t.Context(), "discard", "b"); !errors.Is(err, ordered.ErrNobody) {
			t.Errorf("%s without an instance: %v", queue, err)
		}
	}
}
