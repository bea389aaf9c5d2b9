package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

const soakExplanation = `Sends messages through the broker for a while and keeps account of each: handled,
retried, deferred, sent by handlers, parked. Break the broker meanwhile if you
like. At the end it reads what is left with a plain client and says what was
lost or duplicated, and why. It works in queues and exchanges of its own and
removes them. The exit status is 1 if a promise was broken. It remembers every
message, which takes about 2 KB each.`

// runSoak is the command soak.
func runSoak(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("soak [flags]", soakExplanation)
	connect := connectionFlags(flags)
	duration := flags.Duration("duration", time.Minute, "how long to send")
	rate := flags.Int("rate", 100, "messages a second")
	publishers := flags.Int("publishers", 10, "publishers that send at once")
	consumers := flags.Int("consumers", 1, "consumers, each handling ten messages at once")
	queueType := flags.String("type", string(topology.Quorum), "type of the queue: quorum or classic")
	asJSON := flags.Bool("json", false, "print the verdict as one JSON object")
	verbose := flags.Bool("v", false, "log what the library does on stderr")
	if code, done := parse(flags, args, std); done {
		return code
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"rate", *rate}, {"publishers", *publishers}, {"consumers", *consumers}} {
		if n.value < 1 {
			return std.misuse(flags, fmt.Sprintf("-%s %d is less than 1", n.name, n.value))
		}
	}
	switch {
	case flags.NArg() > 0:
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	case *duration <= 0:
		return std.misuse(flags, fmt.Sprintf("-duration %v is not positive", *duration))
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	cfg := harebus.Config{Connect: harebus.ConnectConfig{Name: "harebus soak"}}
	broker.Apply(&cfg)
	if *verbose {
		cfg.Logger = newLogger(std.err, zapcore.DebugLevel)
	}
	verdict, err := proof.Soak{
		Config: cfg, Broker: broker, Duration: *duration, Rate: *rate, Publishers: *publishers,
		Consumers: *consumers, QueueType: topology.QueueType(*queueType), Progress: std.soakProgress,
	}.Run(ctx)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: soak: %w", err))
	}
	if *asJSON {
		if err := json.NewEncoder(std.out).Encode(verdict); err != nil {
			return std.fail(fmt.Errorf("harebus: soak: %w", err))
		}
	} else {
		fmt.Fprintln(std.out, verdict)
	}
	if len(verdict.Violations) > 0 {
		return std.fail(fmt.Errorf("harebus: soak: %d violations of %v", len(verdict.Violations), verdict.Broken()))
	}
	return exitOK
}

func (s stdio) soakProgress(p proof.Progress) {
	start, ending := "", "\n"
	if s.terminal {
		start, ending = "\r\x1b[K", ""
	}
	fmt.Fprintf(s.err, "%s%v: sent %d, confirmed %d, handled %d, in flight %d, duplicated %d, longest gap %v%s", start,
		p.Elapsed.Round(time.Second), p.Sent, p.Confirmed, p.Handled, p.InFlight, p.Duplicates, p.Gap.Round(time.Millisecond), ending)
}
