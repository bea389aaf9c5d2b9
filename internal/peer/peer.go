// Package peer reads and writes messages in the dialects of other buses for a setup: between
// the headers of harebus and what package dialect knows of a message.
package peer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
)

// Peers are the dialects of a setup. It is not changed.
type Peers struct {
	own    *header.Dialect
	broker dialect.Broker
	most   int // bytes of a body that is read

	dialects []dialect.Dialect          // that are asked about a received message, in order
	replies  []dialect.Dialect          // and about a reply
	to       map[string]dialect.Dialect // by queue or exchange
}

// Prefix starts the names of the standard headers.
func (p *Peers) Prefix() string { return p.own.Prefix }

// New returns the dialects of a setup: of those that it reads, in order, and of the queues and exchanges to
// which it sends. Bodies have at most so many bytes.
func New(own *header.Dialect, reads []dialect.Dialect, to map[string]dialect.Dialect, addresses []amqp.URI, most int) *Peers {
	p := &Peers{own: own, dialects: slices.Clone(reads), to: maps.Clone(to), most: most}
	p.replies = slices.Clone(reads)
	for _, name := range slices.Sorted(maps.Keys(to)) {
		if d := to[name]; named(p.replies, d.Name()) == nil {
			p.replies = append(p.replies, d)
		}
	}
	for _, address := range addresses {
		p.broker.Hosts = append(p.broker.Hosts, address.Host)
		p.broker.VirtualHost = address.Vhost
	}
	return p
}

// Validate names what is wrong with the dialects of a configuration.
func Validate(reads []dialect.Dialect, to map[string]dialect.Dialect) (faults []error) {
	check := func(where string, d dialect.Dialect) string {
		if d == nil {
			faults = append(faults, fmt.Errorf("%s is nil", where))
			return ""
		}
		name := ""
		err := foreign.Call(func() error {
			name = d.Name()
			if v, ok := d.(dialect.Validator); ok {
				return v.Validate()
			}
			return nil
		})
		if err == nil && !validName(name) {
			err = fmt.Errorf("%.40q is no name of a dialect: it has 1 to 32 small letters, digits and - characters", name)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", where, err))
		}
		return name
	}
	known := map[string]int{}
	for i, d := range reads {
		name := check(fmt.Sprintf("Payload.Dialects[%d]", i), d)
		if other, twice := known[name]; twice && name != "" {
			faults = append(faults, fmt.Errorf("Payload.Dialects[%d] is %q, as Payload.Dialects[%d] is: copies of a message name their dialect, so put all types into one", i, name, other))
		}
		known[name] = i
	}
	for _, queue := range slices.Sorted(maps.Keys(to)) {
		check(fmt.Sprintf("Publish.Peers[%q]", queue), to[queue])
	}
	return faults
}

func validName(name string) bool {
	const longest = 32
	return name != "" && len(name) <= longest && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// To is the dialect of an exchange or, if that has none, of a queue; nil is that of harebus.
func (p *Peers) To(exchange, queue string) dialect.Dialect {
	if len(p.to) == 0 {
		return nil
	}
	if d := p.to[exchange]; d != nil && exchange != "" {
		return d
	}
	return p.to[queue]
}

// Overlaps tells which dialects would read messages of others.
func (p *Peers) Overlaps() (found []string) {
	for i, d := range p.dialects {
		s, ok := d.(dialect.Sampler)
		if !ok {
			continue
		}
		var sample dialect.Wire
		if err := foreign.Call(func() error { sample = s.Sample(); return nil }); err != nil {
			continue
		}
		sample.Broker = &p.broker
		for k, other := range p.dialects {
			if _, is, _ := ask(other, &sample); is && k != i {
				found = append(found, fmt.Sprintf("messages of %s are also read by %s; %s comes first", d.Name(), other.Name(), p.dialects[min(i, k)].Name()))
			}
		}
	}
	return found
}

// UnknownDialect is the reason for which a copy is not handled that names a dialect which is not configured here.
const UnknownDialect = "unknown-dialect"

// Foreign is a message that was written by another bus. A nil Foreign is one that was not.
type Foreign struct {
	*dialect.Envelope
	Dialect dialect.Dialect
}

// Name is that of the dialect, and empty for a message of harebus.
func (f *Foreign) Name() string {
	if f == nil {
		return ""
	}
	return f.Dialect.Name()
}

// Awaits says whether the sender wants to know when the message is given up.
func (f *Foreign) Awaits() bool {
	return f != nil && (f.RequestID != "" || f.FaultTo != "") && f.Fault == nil
}

// FaultsTo is the queue for the answer that a request was given up, instead of the one for answers.
func (f *Foreign) FaultsTo(replyTo string) string {
	if f == nil {
		return replyTo
	}
	return cmp.Or(f.FaultTo, replyTo)
}

// Parked are the headers that tools of the peer need of a message that is parked; nil if there are none. If they cannot be had, the message is parked without.
func (f *Foreign) Parked(failure dialect.Failure) (headers amqp.Table) {
	if f == nil {
		return nil
	}
	parker, ok := f.Dialect.(dialect.Parker)
	if !ok {
		return nil
	}
	err := foreign.Call(func() (err error) {
		headers, err = field.Table(parker.Parked(failure))
		return err
	})
	if err != nil {
		return nil
	}
	maps.DeleteFunc(headers, func(key string, _ any) bool { return header.OfBroker(key) })
	return headers
}

// Refuses is why the message cannot be answered, although it has an address.
func (f *Foreign) Refuses() error {
	if f == nil {
		return nil
	}
	return f.NoReply
}

// Late says whether a message comes for the first time, and later than its sender wanted it. What an operator has moved back is to
// be handled all the same.
func (p *Peers) Late(f *Foreign, in *amqp.Delivery) bool {
	if f == nil || !f.ExpiresHere || time.Now().Before(f.Expires) {
		return false
	}
	_, movedBack := in.Headers[p.own.Prefix+header.Replays]
	return !movedBack
}

// Read is header.Dialect.Read of what this setup reads. Foreign is not nil if it is not a message of harebus; its
// Headers are then all that a handler gets.
func (p *Peers) Read(in *amqp.Delivery) (header.Head, *Foreign, []header.Fault) {
	if _, copied := in.Headers[p.own.Names.Dialect]; len(p.dialects) == 0 && !copied {
		h, faults := p.own.Read(in)
		return h, nil, faults
	}
	f, err := p.foreign(in, p.dialects)
	h, faults := p.head(in, f)
	if f != nil {
		f.into(&h)
		f.addHeaders(in.Headers, p.own.Prefix)
	}
	switch _, copied := in.Headers[p.own.Names.Dialect]; {
	case err == nil:
	case f == nil && copied: // a service that is replaced may know more, or less, than this one
		faults = append(faults, header.Fault{Reason: UnknownDialect, Err: err, Curable: true})
	default:
		faults = append(faults, header.Fault{Reason: "bad-envelope", Err: err})
	}
	return h, f, faults
}

// head is what the headers of harebus say. A message that comes straight from a peer has none.
func (p *Peers) head(in *amqp.Delivery, f *Foreign) (header.Head, []header.Fault) {
	if _, copied := in.Headers[p.own.Names.MessageID]; f == nil || copied || p.own.Environment != "" {
		return p.own.Read(in)
	}
	return header.Head{ID: in.MessageId, CorrelationID: in.CorrelationId, TimeSent: in.Timestamp}, nil
}

// AnswersTo is the id of the request that a message answers.
func (p *Peers) AnswersTo(in *amqp.Delivery) string {
	if len(p.replies) > 0 {
		if f, _ := p.foreign(in, p.replies); f != nil && f.RequestID != "" {
			return f.RequestID
		}
	}
	return p.own.CorrelationIDOf(in)
}

// ForReplies reads replies: with the dialects of Publish.Peers, too.
func (p *Peers) ForReplies() *Peers {
	return &Peers{own: p.own, broker: p.broker, most: p.most, dialects: p.replies, replies: p.replies}
}

// foreign reads a message of another bus. It is nil for one of harebus.
func (p *Peers) foreign(in *amqp.Delivery, dialects []dialect.Dialect) (*Foreign, error) {
	names := &p.own.Names
	if len(in.Body) > p.most {
		return nil, nil //nolint:nilnil // the caller parks it for its size
	}
	if value, ok := in.Headers[names.Dialect]; ok { // a copy
		name, _ := field.Text(value)
		d := named(dialects, name)
		if d == nil {
			return nil, fmt.Errorf("it is written in the dialect %s, which Config.Payload.Dialects does not have", field.Quote(name))
		}
		dialects = []dialect.Dialect{d}
	} else if _, ours := in.Headers[names.MessageID]; ours {
		return nil, nil //nolint:nilnil // nothing is wrong
	}
	one := &struct { // together, as one allocation
		w dialect.Wire
		f Foreign
	}{w: dialect.Wire{
		Exchange: in.Exchange, RoutingKey: in.RoutingKey, Headers: in.Headers, Body: in.Body, Broker: &p.broker,
		Properties: Properties(in),
	}}
	var unread error
	for _, d := range dialects {
		e, is, err := ask(d, &one.w)
		if !is {
			if err != nil && unread == nil {
				unread = fmt.Errorf("a message of %s: %w", d.Name(), err)
			}
			continue
		}
		f := &one.f
		if *f = (Foreign{e, d}); e == nil {
			f.Envelope = &dialect.Envelope{}
		}
		if err == nil {
			err = f.check()
		}
		if err != nil {
			err = fmt.Errorf("a message of %s: %w", d.Name(), err)
		}
		return f, err
	}
	return nil, unread
}

// Properties are those of a delivery.
func Properties(in *amqp.Delivery) dialect.Properties {
	return dialect.Properties{
		ContentType: in.ContentType, ContentEncoding: in.ContentEncoding, DeliveryMode: in.DeliveryMode, Priority: in.Priority,
		CorrelationID: in.CorrelationId, ReplyTo: in.ReplyTo, Expiration: in.Expiration, MessageID: in.MessageId,
		Timestamp: in.Timestamp, Type: in.Type, UserID: in.UserId, AppID: in.AppId,
	}
}

// ask has a dialect read a message. It is foreign code.
func ask(d dialect.Dialect, w *dialect.Wire) (e *dialect.Envelope, is bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			e, is, err = nil, true, fmt.Errorf("panic: %.200v", v)
		}
	}()
	return d.Read(w)
}

func named(dialects []dialect.Dialect, name string) dialect.Dialect {
	for _, d := range dialects {
		if d.Name() == name {
			return d
		}
	}
	return nil
}

// check refuses what no header of harebus could have, and clears it.
func (f *Foreign) check() error {
	var faults []error
	for _, one := range []struct {
		name string
		text *string
	}{
		{"id", &f.ID}, {"correlation id", &f.CorrelationID}, {"causation id", &f.CausationID}, {"conversation id", &f.ConversationID},
		{"request id", &f.RequestID}, {"type", &f.Type}, {"reply address", &f.ReplyTo}, {"fault address", &f.FaultTo},
		{"address of the sender", &f.From}, {"content type", &f.ContentType}, {"content encoding", &f.ContentEncoding},
	} {
		if len(*one.text) <= field.MaxShortString && printable(*one.text) {
			continue
		}
		faults = append(faults, field.CheckShort(one.name, *one.text))
		if faults[len(faults)-1] == nil {
			faults[len(faults)-1] = fmt.Errorf("the %s %s is not printable text", one.name, field.Quote(*one.text))
		}
		*one.text = ""
	}
	return errors.Join(faults...)
}

// printable says whether there is nothing invalid in a text.
func printable(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f {
			return !strings.ContainsFunc(text, invalid)
		}
	}
	return true
}

// invalid is true for what is in no id, type or name of a queue: control characters, and bytes that are no UTF-8.
func invalid(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }

// into writes what the message says of itself into a head that was read from its headers. What copies have added stays.
func (f *Foreign) into(h *header.Head) {
	h.ID = strings.Clone(cmp.Or(f.ID, h.ID))
	h.CorrelationID = cmp.Or(f.CorrelationID, f.ConversationID, h.CorrelationID)
	h.CausationID, h.Type, h.Intent, h.ReplyTo, h.OriginatingAddress = f.CausationID, f.Type, f.Intent, f.ReplyTo, f.From
	h.ContentType, h.ContentEncoding = f.ContentType, f.ContentEncoding
	if !f.TimeSent.IsZero() {
		h.TimeSent = f.TimeSent
	}
	if h.DeferredUntil.IsZero() {
		h.DeferredUntil = f.NotBefore
	}
}

// addHeaders adds those of the wire to those that the dialect has found elsewhere, which must not pass for standard ones.
func (f *Foreign) addHeaders(wire amqp.Table, prefix string) {
	if len(f.Headers) == 0 {
		f.Headers = wire
		return
	}
	all := make(map[string]any, len(f.Headers)+len(wire))
	for key, value := range f.Headers {
		if !header.OfBroker(key) && !strings.HasPrefix(key, prefix) {
			all[key] = value
		}
	}
	for key, value := range wire {
		if _, ok := all[key]; !ok || !field.Deadly(value) { // copies lack what is deadly, and are to be read alike
			all[key] = value
		}
	}
	f.Headers = all
}
