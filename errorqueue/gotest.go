package errorqueue

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"go/format"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/fingerprint"
)

//go:embed gotest.tmpl
var goTest string

var goTestTemplate = template.Must(template.New("test").Parse(goTest))

// GoTest writes a Go test that handles the message once more, on a broker in the process of the
// test: with its body, its headers, and as the attempt that was its last. The test fails when
// the message is parked again. It is in package pkg, and calls a function setup of that
// package, which makes the service of a config that has the broker:
//
//	func newSetup(cfg harebus.Config) (*harebus.Setup, error)
func (q *Queue) GoTest(c *Content, pkg, setup string) ([]byte, error) {
	source, err := c.raw.Source(q.cfg.HeaderPrefix, q.cfg.Name)
	switch {
	case err != nil:
	case c.Unreadable:
		err = errors.New("it has headers that the AMQP client cannot read")
	case !token.IsIdentifier(pkg) || !token.IsIdentifier(setup):
		err = fmt.Errorf("%q and %q have to be names in Go", pkg, setup)
	}
	if err != nil {
		return nil, fmt.Errorf("errorqueue: write a test for message %q: %w", c.ID(), err)
	}
	p := c.raw.Cleaned(q.cfg.HeaderPrefix, "").Message
	if c.Attempts > 1 {
		p.Headers[q.cfg.HeaderPrefix+harebus.HeaderErrorRetries] = field.SmallestInt(c.Attempts - 1)
	}
	const nameDigits = 13
	id := strings.ReplaceAll(c.ID(), "-", "")
	var buf bytes.Buffer
	err = goTestTemplate.Execute(&buf, map[string]any{
		"Package": pkg, "Setup": setup, "ID": c.ID(), "Name": "TestFailed" + id[:nameDigits], "Queue": source, "ErrorQueue": q.cfg.Name,
		"Details": q.cfg.HeaderPrefix + harebus.HeaderErrorDetails, "Attempts": c.Attempts, "Failure": fingerprint.Line(c.Failure),
		"Source": strconv.Quote(source), "Publishing": literal(&p),
	})
	if err != nil {
		return nil, err
	}
	return format.Source(buf.Bytes())
}

// literal is a publishing as Go writes it, without its zero fields.
func literal(p *amqp.Publishing) string {
	var b strings.Builder
	b.WriteString("amqp.Publishing{\n")
	for _, f := range []struct{ name, text string }{
		{"ContentType", p.ContentType}, {"ContentEncoding", p.ContentEncoding}, {"CorrelationId", p.CorrelationId},
		{"ReplyTo", p.ReplyTo}, {"MessageId", p.MessageId}, {"Type", p.Type}, {"AppId", p.AppId},
	} {
		if f.text != "" {
			fmt.Fprintf(&b, "%s: %q,\n", f.name, f.text)
		}
	}
	if !p.Timestamp.IsZero() {
		fmt.Fprintf(&b, "Timestamp: %s,\n", value(p.Timestamp))
	}
	if p.Priority > 0 {
		fmt.Fprintf(&b, "Priority: %d,\n", p.Priority)
	}
	b.WriteString("DeliveryMode: amqp.Persistent,\n")
	fmt.Fprintf(&b, "Headers: %s,\n", value(p.Headers))
	fmt.Fprintf(&b, "Body: []byte(%s),\n}", text(string(p.Body)))
	return b.String()
}

// text is a string as Go writes it: readable where that is possible.
func text(s string) string {
	if utf8.ValidString(s) && strconv.CanBackquote(strings.ReplaceAll(s, "\n", "")) && strings.ContainsAny(s, "\"\\\n") {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}

// value is a header value as Go writes it.
func value(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case string:
		return strconv.Quote(v)
	case []byte:
		return fmt.Sprintf("[]byte(%q)", v)
	case time.Time:
		return fmt.Sprintf("time.Unix(%d, 0)", v.Unix())
	case amqp.Decimal:
		return fmt.Sprintf("amqp.Decimal{Scale: %d, Value: %d}", v.Scale, v.Value)
	case amqp.Table:
		var b strings.Builder
		b.WriteString("amqp.Table{")
		for _, key := range slices.Sorted(maps.Keys(v)) {
			fmt.Fprintf(&b, "\n%q: %s,", key, value(v[key]))
		}
		b.WriteString("\n}")
		return b.String()
	case []any:
		var b strings.Builder
		b.WriteString("[]any{")
		for _, element := range v {
			b.WriteString(value(element) + ", ")
		}
		b.WriteString("}")
		return b.String()
	default: // bool and numbers; NaN has no literal, and nobody sends it
		return fmt.Sprintf("%T(%v)", v, v)
	}
}
