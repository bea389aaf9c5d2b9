package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/access"
)

// emitter is what Bus and Tx have in common.
type emitter interface {
	Send(ctx context.Context, queue string, message any, opts ...harebus.SendOption) error
	Publish(ctx context.Context, topic string, message any, opts ...harebus.SendOption) error
	Defer(ctx context.Context, queue string, delay time.Duration, message any, opts ...harebus.SendOption) error
}

// emitFunc sends or publishes one message.
type emitFunc func(ctx context.Context, bus emitter, to string, delay time.Duration, body any, opts []harebus.SendOption) error

// outgoing is one run of send or publish.
type outgoing struct {
	std         stdio
	emit        emitFunc
	to          string
	messageType string
	as          dialect.Dialect
	headers     headerFlag
	delay       time.Duration
	replyTo     string
	timeout     time.Duration
	plain       int // bodies that look like JSON and are not
}

// headerFlag collects -header k=v.
type headerFlag map[string]any

func (h headerFlag) String() string { return "" }

// Set adds one header; a repeated key is refused, because one of the values
// would be lost.
func (h headerFlag) Set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return errors.New("want key=value")
	}
	if _, ok := h[key]; ok {
		return fmt.Errorf("key %q is given twice", key)
	}
	h[key] = value
	return nil
}

// runOutgoing is what send and publish share.
func runOutgoing(ctx context.Context, flags *flag.FlagSet, args []string, std stdio, emit emitFunc) int {
	o := &outgoing{std: std, emit: emit, headers: headerFlag{}}
	connect := connectionFlags(flags)
	flags.StringVar(&o.messageType, "type", "", "wire `name` of the message's type")
	as := flags.String("as", "", "write the message as the bus of this `name` does: "+dialectNames()+". -type is then the peer's name of the type")
	flags.Var(o.headers, "header", "add a header `key=value`; may be repeated")
	flags.DurationVar(&o.delay, "defer", 0, "deliver the message after this `duration`")
	flags.StringVar(&o.replyTo, "reply-to", "", "`queue` that replies go to")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "give up `after` this long without a broker or a confirm; 0 waits for ever")
	lines := flags.Bool("lines", false, "send every line of stdin as a message, all in one transaction")
	if code, done := parse(flags, args, std); done {
		return code
	}
	fromStdin := *lines && (flags.NArg() == 1 || flags.NArg() == 2 && flags.Arg(1) == "-")
	switch {
	case *lines && !fromStdin:
		return std.misuse(flags, "-lines reads the bodies from stdin: give the destination only")
	case !*lines && flags.NArg() != 2:
		return std.misuse(flags, fmt.Sprintf("want a destination and a body after the flags, got %s", arguments(flags)))
	case o.delay < 0 || o.timeout < 0:
		return std.misuse(flags, "a duration is negative")
	}
	o.to = flags.Arg(0)
	var err error
	if *as != "" {
		if o.as, err = dialectFor(*as, o.messageType); err != nil {
			return std.misuse(flags, err.Error())
		}
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	setup, err := sender(broker, std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	defer func() { _ = setup.Close() }() // every outcome is known by then
	if *lines {
		err = o.sendLines(ctx, setup)
	} else {
		err = o.sendOne(ctx, setup, flags.Arg(1))
	}
	o.notePlain()
	if err != nil {
		return o.report(err)
	}
	return exitOK
}

// sender is a setup that only sends.
func sender(broker access.Broker, std stdio) (*harebus.Setup, error) {
	cfg := harebus.Config{Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{verbatim{}}}, Logger: newLogger(std.err, zapcore.WarnLevel)}
	broker.Apply(&cfg)
	return harebus.New(cfg)
}

// notePlain says that bodies are not what they look like.
func (o *outgoing) notePlain() {
	if o.plain > 0 {
		fmt.Fprintf(o.std.err, "harebus: note: %d of the bodies begin like JSON but are not, and went as text\n", o.plain)
	}
}

// sendOne sends one message and prints its id.
func (o *outgoing) sendOne(ctx context.Context, setup *harebus.Setup, body string) error {
	content, err := o.body(ctx, body)
	if err != nil {
		return err
	}
	ctx, cancel := o.bounded(ctx)
	defer cancel()
	id := harebus.NewMessageID()
	if err := o.queue(ctx, setup.Bus(), id, content); err != nil {
		return err
	}
	_, err = fmt.Fprintln(o.std.out, id)
	return err
}

// body is the argument, or the input for the argument -.
func (o *outgoing) body(ctx context.Context, argument string) ([]byte, error) {
	if argument == "-" {
		return readBody(ctx, o.std.in)
	}
	return []byte(argument), nil
}

// sendLines sends every line of the input in one transaction and prints the ids
// of those that were confirmed.
func (o *outgoing) sendLines(ctx context.Context, setup *harebus.Setup) error {
	tx := setup.Bus().Begin()
	defer tx.Rollback()
	var ids []string
	err := eachLine(ctx, o.std.in, func(line []byte) error {
		id := harebus.NewMessageID()
		if err := o.queue(ctx, tx, id, line); err != nil {
			return fmt.Errorf("line %d, nothing was sent: %w", len(ids)+1, err)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return err
	}
	ctx, cancel := o.bounded(ctx)
	defer cancel()
	watch := startProgress(o.std, len(ids), func() int { return int(setup.Stats().Published) }) //nolint:gosec // at most len(ids)
	err = tx.Commit(ctx)
	var partial *harebus.TransactionError
	if errors.As(err, &partial) {
		ids = nil
		for _, m := range partial.With(harebus.Confirmed) {
			ids = append(ids, m.MessageID)
		}
	} else if err != nil {
		ids = nil
	}
	watch.end(len(ids))
	return errors.Join(err, printLines(o.std.out, ids))
}

func (o *outgoing) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("gave up after %v", o.timeout))
}

// queue hands one message to a bus or a transaction.
func (o *outgoing) queue(ctx context.Context, bus emitter, id string, body []byte) error {
	message, opts := o.message(id, body)
	return o.emit(ctx, bus, o.to, o.delay, message, opts)
}

// message is what a body is sent as.
func (o *outgoing) message(id string, body []byte) (any, []harebus.SendOption) {
	content := contentType(body)
	if start := bytes.TrimLeft(body, " \t\r\n"); content != jsonContent && len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		o.plain++
	}
	opts := []harebus.SendOption{harebus.WithMessageID(id), harebus.WithContentType(content)}
	if o.messageType != "" {
		opts = append(opts, harebus.WithType(o.messageType))
	}
	if o.as != nil {
		opts = append(opts, harebus.As(o.as))
	}
	if len(o.headers) > 0 {
		opts = append(opts, harebus.WithHeaders(o.headers))
	}
	if o.replyTo != "" {
		opts = append(opts, harebus.WithReplyTo(o.replyTo))
	}
	var message any = body
	switch content {
	case jsonContent:
		message = json.RawMessage(body)
	case textContent:
		message = string(body)
	}
	return message, opts
}

// report prints the error; for a transaction, the outcome of each message that was
// not confirmed.
func (o *outgoing) report(err error) int {
	var partial *harebus.TransactionError
	if !errors.As(err, &partial) {
		return o.std.fail(err)
	}
	const shown = 20
	failed := slices.DeleteFunc(slices.Clone(partial.Messages), func(m harebus.MessageOutcome) bool { return m.Err == nil })
	for i, m := range failed {
		if i == shown {
			fmt.Fprintf(o.std.err, "harebus: … and %d more\n", len(failed)-shown)
			break
		}
		fmt.Fprintf(o.std.err, "%v: %v\n", m.Outcome, m.Err)
	}
	return o.std.fail(err)
}

// The content types of what is sent.
const (
	jsonContent  = "application/json"
	textContent  = "text/plain"
	bytesContent = "application/octet-stream"
)

func contentType(body []byte) string {
	switch {
	case isJSON(body):
		return jsonContent
	case utf8.Valid(body):
		return textContent
	default:
		return bytesContent
	}
}

// verbatim is JSON for bodies that are JSON already: not a byte of them changes.
type verbatim struct{ harebus.JSON }

// Encode returns a json.RawMessage as it is.
func (v verbatim) Encode(value any) ([]byte, error) {
	if raw, ok := value.(json.RawMessage); ok {
		return bytes.Clone(raw), nil
	}
	return v.JSON.Encode(value)
}

// maxInput is the largest body that is read: one byte more than the bus takes,
// so that the bus says so.
const maxInput = 16<<20 + 1

// readBody reads the input as one body, unless ctx ends first.
func readBody(ctx context.Context, r io.Reader) ([]byte, error) {
	type result struct {
		body []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		body, err := io.ReadAll(io.LimitReader(r, maxInput))
		read <- result{body, err}
	}()
	select {
	case got := <-read:
		if got.err != nil {
			return nil, fmt.Errorf("harebus: read the body: %w", got.err)
		}
		return got.body, nil
	case <-ctx.Done():
		return nil, errors.New("harebus: interrupted while reading stdin; nothing was sent")
	}
}

// eachLine calls fn with every line of r, without its line break, until ctx
// ends: reading a terminal or a pipe cannot be interrupted, so it is done aside.
func eachLine(ctx context.Context, r io.Reader, fn func(line []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan []byte, 64)
	failed := make(chan error, 1)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, maxInput)
		for scanner.Scan() {
			select {
			case lines <- bytes.Clone(scanner.Bytes()):
			case <-ctx.Done():
				return
			}
		}
		failed <- scanner.Err()
	}()
	for {
		select {
		case <-ctx.Done():
			return errors.New("harebus: interrupted while reading stdin; nothing was sent")
		case line, ok := <-lines:
			if !ok && ctx.Err() == nil {
				return lineError(<-failed)
			} else if !ok {
				continue // the reader stopped because of ctx
			}
			if err := fn(line); err != nil {
				return err
			}
		}
	}
}

func lineError(err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("harebus: a line is longer than %d bytes; nothing was sent", maxInput-1)
	}
	if err != nil {
		return fmt.Errorf("harebus: read stdin: %w; nothing was sent", err)
	}
	return nil
}

func printLines(w io.Writer, lines []string) error {
	out := bufio.NewWriter(w)
	for _, line := range lines {
		fmt.Fprintln(out, line) // the error stays with out until Flush
	}
	return out.Flush()
}
