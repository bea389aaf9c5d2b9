package proof_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/redrive"
)

// patterns are the three regular expressions of rabbitmqctl set_permissions.
type patterns struct{ configure, write, read string }

// documented reads the permissions under a heading of docs/topology.md.
func documented(t *testing.T, heading string) patterns {
	t.Helper()
	page, err := os.ReadFile("../../docs/topology.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n"+heading+"\n")
	block := regexp.MustCompile("```\nconfigure  (.*)\nwrite      (.*)\nread       (.*)\n```").FindStringSubmatch(rest)
	if !found || block == nil {
		t.Fatalf("docs/topology.md has no permissions below %q", heading)
	}
	return patterns{block[1], block[2], block[3]}
}

// without takes one part away.
func (g patterns) without(t *testing.T, kind, piece string) patterns {
	t.Helper()
	pattern := map[string]*string{"configure": &g.configure, "write": &g.write, "read": &g.read}[kind]
	*pattern = without(t, *pattern, piece)
	return g
}

// without removes one alternative of ^(a|b|c)$.
func without(t *testing.T, pattern, piece string) string {
	t.Helper()
	pieces := strings.Split(strings.TrimSuffix(strings.TrimPrefix(pattern, "^("), ")$"), "|")
	i := slices.Index(pieces, piece)
	if i < 0 {
		t.Fatalf("%q is not a part of %q", piece, pattern)
	}
	return "^(" + strings.Join(slices.Delete(pieces, i, i+1), "|") + ")$"
}

// A permitted is a broker with a user who may do what was granted, and no more.
type permitted struct {
	*testing.T
	node *rabbit.Node
	user string
}

// grant makes a user for each set of permissions.
func grant(t *testing.T, node *rabbit.Node, grants map[string]patterns) {
	t.Helper()
	users := make([]string, 0, len(grants))
	for user, g := range grants {
		users = append(users, fmt.Sprintf("{<<%q>>, <<%q>>, <<%q>>, <<%q>>}", user, g.configure, g.write, g.read))
	}
	expression := fmt.Sprintf(`[begin
		ok = rabbit_auth_backend_internal:add_user(User, <<"secret">>, <<"test">>),
		ok = rabbit_auth_backend_internal:set_permissions(User, <<"/">>, Configure, Write, Read, <<"test">>)
	end || {User, Configure, Write, Read} <- [%s]].`, strings.Join(users, ", "))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := node.Eval(ctx, expression); err != nil || strings.Count(out, "ok") != len(grants) {
		t.Fatalf("grant: %v: %s", err, out)
	}
}

// url is where the user logs in.
func (p *permitted) url() string {
	p.Helper()
	u, err := url.Parse(p.node.URL())
	if err != nil {
		p.Fatal(err)
	}
	u.User = url.UserPassword(p.user, "secret")
	return u.String()
}

// limit turns a config into that of the service the page describes, run by the user.
func (p *permitted) limit(cfg *harebus.Config) {
	cfg.URL, cfg.Connect.URLs = p.url(), nil
	cfg.Queue, cfg.ErrorQueue.Name, cfg.Exchanges.Direct, cfg.Exchanges.Topic = "orders", "", "", ""
	cfg.ErrorQueue.Name = "error"
	cfg.Subscriptions = []string{"order.*"}
}

// The whole library works with the permissions that docs/topology.md names, and each part of them is needed: without it
// something fails, and says what is missing.
func TestPermissions(t *testing.T) {
	node := private(t, rabbit.Options{})
	service, redriving := documented(t, "### A service"), documented(t, "### `harebus redrive`")
	grants := map[string]patterns{
		"service": service, "checking": documented(t, "### The same with `CheckOnly`"),
		"sender":    documented(t, "### A setup that only sends and publishes"),
		"deferring": documented(t, "### A setup that also defers"),
		"redrive":   redriving, "redrive without read": {redriving.configure, redriving.write, "^$"},
		"redrive without write":     {redriving.configure, "^$", redriving.read},
		"redrive without configure": {"^$", redriving.write, redriving.read},
	}
	for _, need := range needs {
		grants[need.user()] = service.without(t, need.kind, need.piece)
	}
	grant(t, node, grants)
	as := func(t *testing.T, user string) *permitted { return &permitted{t, node, user} }
	t.Run("enough", func(t *testing.T) { as(t, "service").enough() })
	t.Run("each needed", func(t *testing.T) {
		if parts := strings.Count(fmt.Sprint(service), "|") + 3; parts != len(needs) {
			t.Errorf("the page has %d parts, the table %d", parts, len(needs))
		}
		for _, need := range needs {
			as(t, need.user()).needs(need)
		}
	})
	t.Run("check only", func(t *testing.T) { as(t, "checking").checkOnly() })
	t.Run("sender", func(t *testing.T) { as(t, "sender").sender() })
	t.Run("deferring sender", func(t *testing.T) { as(t, "deferring").deferring() })
	t.Run("redrive", func(t *testing.T) { as(t, "redrive").redrive() })
}

// enough runs the ledger's load, with retries, deferrals, transactions, parking and a subscription; then everything
// else.
func (p *permitted) enough() {
	r := begin(p.T, plan{nodes: []*rabbit.Node{p.node}, change: p.limit})
	r.try(r.service.Setup.Subscribe(r.Context(), "late.#"))
	r.end(func(e *ledger.Expect) { e.Recovered = false })
	if deed, err := p.firstFailure(harebus.DeclareAll); err != nil {
		p.Errorf("%s: %v", deed, err)
	}
}

// A need is a part of the permissions, with the first deed that fails without it, and words of the error.
type need struct {
	kind, piece, deed string
	words             []string
}

func (n need) user() string { return "without " + n.kind + " " + n.piece }

var needs = []need{
	{"configure", "orders", "start", []string{`queue "orders"`, "configure pattern must match the queue"}},
	{"configure", "error", "start", []string{`queue "error"`, "configure pattern must match the queue"}},
	{"configure", "PikaBusDirect", "start", []string{
		`exchange "PikaBusDirect"`, "configure pattern must match the exchange",
	}},
	{"configure", "PikaBusTopic", "start", []string{
		`exchange "PikaBusTopic"`, "configure pattern must match the exchange",
	}},
	{"configure", `harebus\.delay\..*`, "defer", []string{"harebus.delay.", "configure pattern must match the"}},
	{"write", "orders", "start", []string{`binding of queue "orders"`, "write pattern must match the queue"}},
	{"write", "error", "start", []string{`binding of queue "error"`, "write pattern must match the queue"}},
	{"write", "PikaBusDirect", "send", []string{"ACCESS_REFUSED", "exchange 'PikaBusDirect'"}},
	{"write", "PikaBusTopic", "publish", []string{"ACCESS_REFUSED", "exchange 'PikaBusTopic'"}},
	{"write", `harebus\.delay\..*`, "defer", []string{"harebus.delay.", "write pattern"}},
	{"write", `amq\.default`, "start", []string{`queue "orders"`, "its write pattern that exchange", "amq.default"}},
	{"read", "orders", "start", []string{"'orders'", "read pattern the queue"}},
	{"read", "PikaBusDirect", "start", []string{`binding of queue "error"`, "read pattern the exchange"}},
	{"read", "PikaBusTopic", "start", []string{`binding of queue "orders"`, "read pattern the exchange"}},
	{"read", `harebus\.delay\..*`, "defer", []string{"harebus.delay.", "read pattern"}},
}

// needs demands that something fails for a user without a part of the permissions.
func (p *permitted) needs(n need) {
	p.Helper()
	// Permission to dead-letter is asked for when the queue is made.
	if _, err := newPlainClient(p.T, p.node.URL()).ch.QueueDelete("orders", false, false, false); err != nil {
		p.Fatal(err)
	}
	deed, err := p.firstFailure(harebus.DeclareAll)
	p.Logf("%s: %s: %v", p.user, deed, err)
	if deed != n.deed {
		p.Errorf("%s: %q failed (%v), want %q", p.user, deed, err, n.deed)
		return
	}
	for _, word := range n.words {
		if !strings.Contains(err.Error(), word) {
			p.Errorf("%s: the error does not say %q: %v", p.user, word, err)
		}
	}
}

// firstFailure uses everything, on a setup of its own, until something fails. Nothing may take long to say no.
func (p *permitted) firstFailure(mode harebus.DeclareMode) (string, error) {
	p.Helper()
	var cfg harebus.Config
	p.limit(&cfg)
	cfg.Declare.Mode = mode
	cfg.Retry.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Millisecond) }
	cfg.Retry.MaxRetries = 1
	setup, err := harebus.New(cfg)
	if err != nil {
		p.Fatal(err)
	}
	defer func() {
		if err := setup.Close(); err != nil {
			p.Error(err)
		}
	}()
	for _, deed := range use(setup).deeds() {
		if mode == harebus.CheckOnly && strings.Contains(deed.name, "subscribe") {
			continue // refused: it would declare
		}
		if err := p.do(deed); err != nil {
			return deed.name, err
		}
	}
	return "", nil
}

// do does a deed. A refusal is said at once, and not when patience ends.
func (p *permitted) do(d deed) error {
	const most = 15 * time.Second
	ctx, cancel := context.WithTimeout(p.Context(), most)
	defer cancel()
	err := d.do(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("only said after %v: %w", most, err)
	}
	return err
}

// checkOnly runs everything with less, after all has been declared.
func (p *permitted) checkOnly() {
	if deed, err := p.firstFailure(harebus.CheckOnly); err != nil {
		p.Errorf("%s: %v", deed, err)
	}
}

// sender sends and publishes from a setup without a queue; and may not defer.
func (p *permitted) sender() {
	bus, ctx := p.sending(), p.Context()
	if err := errors.Join(bus.Send(ctx, "orders", order{}), bus.Publish(ctx, "order.sent", order{})); err != nil {
		p.Error(err)
	}
	err := bus.Defer(ctx, "orders", time.Second, order{})
	if err == nil || !strings.Contains(err.Error(), "configure pattern must match the exchange") {
		p.Errorf("defer: %v", err)
	}
}

// deferring sends, publishes and defers from a setup without a queue. A deferral to a queue that does not exist is
// refused where the broker tells; where it does not, the message waits.
func (p *permitted) deferring() {
	bus, ctx := p.sending(), p.Context()
	if err := errors.Join(bus.Send(ctx, "orders", order{}), bus.Publish(ctx, "order.sent", order{}),
		deferTwice(ctx, bus, "orders", order{})); err != nil {
		p.Error(err)
	}
	_, err := newPlainClient(p.T, p.url()).ch.QueueDeclarePassive("nowhere", true, false, false, false, nil)
	answer, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		p.Fatalf("the broker says of a queue that does not exist: %v", err)
	}
	p.Logf("RabbitMQ %s says of a queue that does not exist: %v", p.node.Version(), err)
	err = bus.Defer(ctx, "nowhere", time.Second, order{})
	if tells := answer.Code == amqp.NotFound; tells != errors.Is(err, harebus.ErrUnroutable) || !tells && err != nil {
		p.Errorf("deferred to a queue that does not exist: %v", err)
	}
}

func (p *permitted) sending() *harebus.Bus {
	p.Helper()
	setup, err := harebus.New(harebus.Config{URL: p.url()})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		if err := setup.Close(); err != nil {
			p.Error(err)
		}
	})
	return setup.Bus()
}

// redrive moves what is in the error queue, and leaves it there when it may not read it. Without the right to
// configure it works with -no-lock.
func (p *permitted) redrive() {
	plain := newPlainClient(p.T, p.node.URL())
	if _, err := plain.ch.QueuePurge("error", false); err != nil {
		p.Fatal(err)
	}
	plain.send("", "error", parkedOrder)
	plain.send("", "error", parkedOrder)
	o := redrive.Options{Broker: access.Broker{URLs: []string{p.url()}}, Queue: "error", HeaderPrefix: "PikaBus.", Timeout: patience}
	for user, words := range map[string]string{
		"redrive without read": "queue 'error'", "redrive without write": "exchange 'amq.default'", "redrive without configure": "-no-lock",
	} {
		o.Broker.URLs[0] = (&permitted{p.T, p.node, user}).url()
		var reasons []string
		report, err := redrive.Run(p.Context(), o, func(i redrive.Item) { reasons = append(reasons, i.Reason) })
		if text := fmt.Sprint(err, reasons); report.Moved != 0 || !strings.Contains(text, words) {
			p.Errorf("%s: %+v, %s", user, report, text)
		}
	}
	for _, user := range []string{"redrive without configure", "redrive"} {
		o.Broker.URLs[0] = (&permitted{p.T, p.node, user}).url()
		o.NoLock, o.Count = user != "redrive", 1
		report, err := redrive.Run(p.Context(), o, func(redrive.Item) {})
		if err != nil || report.Moved != 1 {
			p.Errorf("%s: %+v, %v", user, report, err)
		}
	}
}
