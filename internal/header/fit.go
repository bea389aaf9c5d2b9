package header

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/publish"
)

// cutMark ends a text that was cut.
const cutMark = " … (cut)"

// ErrorDetails is the text of a failure as valid UTF-8 of bounded length.
func ErrorDetails(cause error) string {
	text := cause.Error()
	if most := 4 * MaxErrorDetails; len(text) > most { // the rest is not looked at
		text = text[:most] + cutMark
	}
	return shorten(strings.ToValidUTF8(text, "\uFFFD"), MaxErrorDetails)
}

// MaxErrorDetails bounds the text of a failure that travels with a message.
const MaxErrorDetails = 8 << 10

// shorten cuts valid UTF-8 to at most so many bytes, and says so.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	cut := most - len(cutMark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + cutMark
}

// Fit makes sure that the message can be sent and read: its headers fit into a frame
// of frameMax bytes, of which the broker needs room on the way, and there are no more
// of them than a client reads. What only describes the parking goes first. Without this, a message that is too large to be parked
// would fail for ever. Headers that do not fit are left out, custom headers before
// standard ones and the largest first, and named in the error details of this failure
// and all later ones. If the frame is small, the error details are shortened, too.
func (d *Dialect) Fit(msg *amqp.Publishing, frameMax, room int) {
	headers := msg.Headers
	excess, surplus := publish.HeaderFrame(msg)+room-frameMax, len(headers)-MaxEntries
	if excess <= 0 && surplus <= 0 {
		return
	}
	size, count := d.undescribe(headers)
	excess, surplus = excess-size, surplus-count
	share := min(frameMax/8, MaxErrorDetails)
	names := share / 8 // for the names of what is left out
	if details, _ := headers[d.Names.ErrorDetails].(string); excess > 0 && len(details) > share {
		headers[d.Names.ErrorDetails] = shorten(details, share)
		excess -= len(details) - share
	}
	var dropped []string
	for _, key := range d.expendable(headers) {
		if excess <= 0 && surplus <= 0 {
			break
		}
		if len(dropped) == 0 { // the first one needs room for the names
			excess += 4 * names
			surplus += 2
		}
		excess -= field.EntrySize(key, headers[key])
		surplus--
		delete(headers, key)
		dropped = append(dropped, field.Quote(key))
	}
	if len(dropped) > 0 {
		earlier, _ := field.Text(headers[d.Names.LeftOut])
		d.NameLeftOut(headers, LeftOut(earlier, dropped, min(names, MaxLeftOut)))
	}
}

// MaxLeftOut bounds the list of the headers that were left out.
const MaxLeftOut = 400

// LeftOut adds to the list of the headers that were left out, in at most so many bytes.
func LeftOut(earlier string, dropped []string, most int) string {
	const more = "…"
	if earlier != "" {
		dropped = append([]string{earlier}, dropped...)
	}
	all := strings.Join(dropped, ", ")
	if len(all) <= most {
		return all
	}
	return strings.ToValidUTF8(strings.TrimSuffix(all[:most-len(more)], more), "") + more
}

// NameLeftOut writes which headers are left out: into the error details, and for
// the copies that follow into a header of its own.
func (d *Dialect) NameLeftOut(headers amqp.Table, all string) {
	note := func(list string) string {
		return "(headers left out because they do not fit or cannot be sent: " + list + ")\n"
	}
	details, _ := headers[d.Names.ErrorDetails].(string)
	if earlier, _ := field.Text(headers[d.Names.LeftOut]); earlier != "" {
		details = strings.TrimPrefix(details, note(earlier))
	}
	headers[d.Names.LeftOut] = all
	headers[d.Names.ErrorDetails] = shorten(note(all)+details, MaxErrorDetails)
}

// Bound are the headers that guards have bound to their messages: those that their method Bound names.
func Bound[G any](guards []G) (names []string) {
	for _, g := range guards {
		if b, ok := any(g).(interface{ Bound() []string }); ok {
			names = append(names, b.Bound()...)
		}
	}
	return names
}

// expendable lists the headers that may be left out of a failed message, in the
// order in which they are left out.
func (d *Dialect) expendable(headers amqp.Table) []string {
	needed := []string{d.Names.MessageID, d.Names.ErrorRetries, d.Names.SourceQueue, d.Names.DeferredTime, d.Names.FirstFailed, d.Names.LeftOut, d.Names.Parking, d.Names.Signature, d.Names.Dialect, d.Prefix + ErrorID, d.Prefix + Replays}
	keys := make([]string, 0, len(headers))
	for key, value := range headers {
		text, isText := value.(string)
		switch {
		case key == d.Names.ErrorDetails && isText && len(text) <= MaxErrorDetails:
			continue // it was shortened
		case slices.Contains(needed, key) && field.EntrySize(key, value) <= 2*field.MaxShortString:
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if keep := slices.Contains(d.Keep, a); keep != slices.Contains(d.Keep, b) {
			if keep {
				return 1
			}
			return -1
		}
		if custom := strings.HasPrefix(a, d.Prefix); custom != strings.HasPrefix(b, d.Prefix) {
			if custom {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(field.EntrySize(b, headers[b]), field.EntrySize(a, headers[a])), cmp.Compare(a, b))
	})
	return keys
}
