package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// patience is how long a test waits for what must come. It is generous: a slow machine is no fault.
const patience = 30 * time.Second

// soon is how long a service may take to be back after a fault that the broker survived: for a slow machine, but less
// than a confirm may take, or a call that has patience.
const soon = 15 * time.Second

// A place is one test's part of a broker: names that no other test uses.
type place struct {
	*testing.T
	node *rabbit.Node
	url  string
	name string // starts the name of every object of the test
}

// shared is a place on the broker that all tests use and none may break.
func shared(t *testing.T) *place {
	t.Helper()
	p := on(t, rabbit.Shared(t))
	// A hundred queues take a while on a busy machine, and tests of delays are about something else.
	delayQueues.Do(func() { p.try(p.setup(p.config("")).Init(p.within(4 * patience))) })
	return p
}

var delayQueues sync.Once

// needsRabbitMQ skips a test that brings a broker of its own, where only the shared broker is tested: the in-process broker.
// CI knows the text.
func needsRabbitMQ(t *testing.T) {
	t.Helper()
	if os.Getenv("HAREBUS_SHARED_ONLY") == "1" {
		t.Skip("needs a RabbitMQ of its own")
	}
}

// private is a place on a broker of the test's own, for a test without parallel subtests: see [hosted].
func private(t *testing.T, options rabbit.Options) *place {
	t.Helper()
	needsRabbitMQ(t)
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	privates <- struct{}{}
	t.Cleanup(func() { <-privates })
	return hosted(t, options)
}

// privates bounds how many brokers of tests' own run at once.
var privates = make(chan struct{}, 2)

// hosted is a place on a broker of the test's own, for a test whose parallel subtests use it. It is not one of those that
// are bounded: the subtests wait for a turn, and tests that wait for a broker have all turns.
func hosted(t *testing.T, options rabbit.Options) *place {
	t.Helper()
	needsRabbitMQ(t)
	options.Kind = rabbit.KindNode
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	return on(t, rabbit.Need(t, options))
}

func on(t *testing.T, node *rabbit.Node) *place {
	t.Helper()
	return &place{T: t, node: node, url: node.URL(), name: "it-" + uuid.NewString()[:8]}
}

// The broker for tests that use rabbitmqctl, where the shared one does not take it.
var commanded struct {
	once sync.Once
	node *rabbit.Node
	err  error
}

// vhosted is a place with a virtual host of its own on a broker that takes rabbitmqctl: for tests that need names
// somebody else may use too, or that act on all connections of a virtual host.
func vhosted(t *testing.T) *place {
	t.Helper()
	needsRabbitMQ(t)
	node := rabbit.Shared(t)
	if node.Kind() == rabbit.KindURL {
		commanded.once.Do(func() {
			commanded.node, commanded.err = rabbit.Start(context.WithoutCancel(t.Context()), rabbit.Options{Kind: rabbit.KindNode})
		})
		rabbit.SkipWithoutBroker(t, commanded.err)
		node = commanded.node
	}
	p := on(t, node)
	p.ctl("add_vhost", p.name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 4*patience) // with all its delay queues
		defer cancel()
		if _, err := node.Ctl(ctx, "delete_vhost", p.name); err != nil {
			t.Error(err)
		}
	})
	p.ctl("set_permissions", "-p", p.name, "guest", ".*", ".*", ".*")
	p.url = withVhost(t, p.url, p.name)
	return p
}

func closeCommanded() error {
	if commanded.node == nil {
		return nil
	}
	return commanded.node.Close()
}

func withVhost(t *testing.T, address, vhost string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + vhost
	return u.String()
}

// withUser is the place's address for another user.
func (p *place) withUser(user, password string) string {
	p.Helper()
	u, err := url.Parse(p.url)
	if err != nil {
		p.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// ctl runs rabbitmqctl.
func (p *place) ctl(args ...string) string {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	output, err := p.node.Ctl(ctx, args...)
	if err != nil {
		p.Fatal(err)
	}
	return output
}

// within ends with the test, or after d.
func (p *place) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(p.Context(), d)
	p.Cleanup(cancel)
	return ctx
}

// queue is a name for a queue of the test.
func (p *place) queue(name string) string { return p.name + "." + name }

// config is one of a service: without waits that a test would have to sit out, and with a queue for failures that is
// the test's own. An empty queue makes a setup that only sends.
func (p *place) config(queue string) harebus.Config {
	cfg := harebus.Config{
		URL:        p.url,
		ErrorQueue: harebus.ErrorQueueConfig{Name: p.queue("error")},
		Retry:      harebus.RetryConfig{BackOff: pauses(50 * time.Millisecond)},
	}
	if queue != "" {
		cfg.Queue = p.queue(queue)
	}
	return cfg
}

// ownExchanges gives a service exchanges that no other test sees.
func (p *place) ownExchanges(cfg harebus.Config) harebus.Config {
	cfg.Exchanges.Direct, cfg.Exchanges.Topic = p.name+".direct", p.name+".topic"
	return cfg
}

// pauses makes retries wait for d each time.
func pauses(d time.Duration) func() backoff.BackOff {
	return func() backoff.BackOff { return backoff.NewConstantBackOff(d) }
}

// bothTypes runs a test for either type of queue.
func bothTypes(t *testing.T, test func(t *testing.T, queueType topology.QueueType)) {
	t.Helper()
	eachType(t, []topology.QueueType{topology.Quorum, topology.Classic}, test)
}

func eachType(t *testing.T, types []topology.QueueType, test func(t *testing.T, queueType topology.QueueType)) {
	t.Helper()
	for _, queueType := range types {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			test(t, queueType)
		})
	}
}

// setup makes one and sees to its end. What it logs is shown when the test has failed.
func (p *place) setup(cfg harebus.Config) *harebus.Setup {
	p.Helper()
	if cfg.Logger == nil {
		cfg.Logger = p.journal(cfg.Queue).logger()
	}
	s, err := harebus.New(cfg)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			p.Errorf("stop %q: %v", cfg.Queue, err)
		}
		p.forget(cfg)
	})
	return s
}

// forget removes the objects that only this setup uses.
func (p *place) forget(cfg harebus.Config) {
	own := slices.DeleteFunc([]string{cfg.Queue, cfg.ErrorQueue.Name}, func(queue string) bool { return !strings.HasPrefix(queue, p.name) })
	if cfg.URL == "" || len(own) == 0 {
		return
	}
	b, err := dialBroker(p.T, p.url)
	if err != nil {
		return // the test has broken it, and its end takes everything along
	}
	for _, queue := range own {
		b.deleteQueue(queue)
		b.deleteQueue("harebus.delay.due//" + queue)
	}
}

// bus is one of a setup that only sends.
func (p *place) bus() *harebus.Bus {
	p.Helper()
	return p.setup(p.config("")).Bus()
}

// start starts a setup.
func (p *place) start(s *harebus.Setup) {
	p.Helper()
	if err := s.Start(p.within(patience)); err != nil {
		p.Fatal(err)
	}
}

// service starts a service that keeps every message it gets.
func (p *place) service(cfg harebus.Config) (*harebus.Setup, *inbox) {
	p.Helper()
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, in.take)
	p.start(s)
	return s, in
}

// try fails the test when err is not nil.
func (p *place) try(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// inTime fails the test when what began at start took longer than most.
func (p *place) inTime(what string, start time.Time, most time.Duration) {
	p.Helper()
	if took := time.Since(start); took > most {
		p.Errorf("%s took %v, more than %v", what, took.Round(time.Millisecond), most)
	}
}

// eventually calls check repeatedly until it returns nil. It is for states that no
// event reports.
func (p *place) eventually(most time.Duration, check func() error) {
	p.Helper()
	ctx := p.within(most)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.Fatalf("still not so after %v: %v", most, err)
		}
	}
}

// ready waits until a service says that it is.
func (p *place) ready(s *harebus.Setup, most time.Duration) {
	p.Helper()
	p.eventually(most, s.Ready)
}

// mentions fails the test unless err's text has every one of these words.
func (p *place) mentions(err error, words ...string) {
	p.Helper()
	if err == nil {
		p.Fatalf("no error; wanted one that mentions %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			p.Errorf("the error does not mention %q: %v", word, err)
		}
	}
}

// is fails the test unless err is target.
func (p *place) is(err, target error) {
	p.Helper()
	if !errors.Is(err, target) {
		p.Fatalf("got error %v; want %v", err, target)
	}
}

// An inbox keeps messages that a service has handled.
type inbox struct {
	mu      sync.Mutex // guards what follows
	got     []arrival
	changed chan struct{}
}

type arrival struct {
	*harebus.Message
	at time.Time
}

func newInbox() *inbox { return &inbox{changed: make(chan struct{})} }

func (i *inbox) take(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
	i.add(m)
	return nil
}

func (i *inbox) add(m *harebus.Message) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, arrival{m, time.Now()})
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *inbox) all() []arrival {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clip(i.got)
}

// await waits until there are at least n messages and returns all.
func (i *inbox) await(p *place, n int) []arrival {
	p.Helper()
	return i.awaitWithin(p, n, patience)
}

func (i *inbox) awaitWithin(p *place, n int, most time.Duration) []arrival {
	p.Helper()
	return i.until(p, most, fmt.Sprintf("%d messages", n), func(got []arrival) bool { return len(got) >= n })
}

// awaitID waits for the message with this id.
func (i *inbox) awaitID(p *place, id string) arrival {
	p.Helper()
	return i.awaitIDWithin(p, id, patience)
}

func (i *inbox) awaitIDWithin(p *place, id string, most time.Duration) (found arrival) {
	p.Helper()
	i.until(p, most, "message "+id, func(got []arrival) bool {
		for _, a := range got {
			if a.ID == id {
				found = a
				return true
			}
		}
		return false
	})
	return found
}

func (i *inbox) until(p *place, most time.Duration, what string, enough func([]arrival) bool) []arrival {
	p.Helper()
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	for {
		i.mu.Lock()
		got, changed := slices.Clip(i.got), i.changed
		i.mu.Unlock()
		if enough(got) {
			return got
		}
		select {
		case <-changed:
		case <-timeout.C:
			p.Fatalf("no %s within %v; there are %d messages", what, most, len(got))
		}
	}
}

// copies counts the messages by their ids.
func (i *inbox) copies() map[string]int {
	copies := map[string]int{}
	for _, a := range i.all() {
		copies[a.ID]++
	}
	return copies
}

// A journal keeps what a setup logs.
type journal struct {
	mu    sync.Mutex // guards lines
	lines strings.Builder
}

func (p *place) journal(of string) *journal {
	j := &journal{}
	p.Cleanup(func() {
		if !p.Failed() {
			return
		}
		text := j.text()
		const shown = 8 << 10
		p.Logf("log of %q:\n%s", of, text[max(0, len(text)-shown):])
	})
	return j
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(line)
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.String()
}

func (j *journal) logger() *zap.Logger {
	encoder := zap.NewDevelopmentEncoderConfig()
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoder), zapcore.AddSync(j), zap.DebugLevel))
}
