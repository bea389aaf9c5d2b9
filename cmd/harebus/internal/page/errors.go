package page

import (
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/harebus/harebus/cmd/harebus/internal/draft"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/visible"
)

// lookAgain looks at the error queue.
func (s *Server) lookAgain(w http.ResponseWriter, r *http.Request) {
	query := searchOf(r.URL.Query())
	filter, err := query.filter()
	if err != nil {
		s.write(w, r, http.StatusBadRequest, "groups", view{Title: "Failed messages", Fault: err.Error(), Body: overview{look: &look{Query: query, Found: &errorqueue.Index{}}}})
		return
	}
	l, err := s.take(r.Context(), query, filter)
	if err != nil {
		s.broker(w, r, err)
		return
	}
	http.Redirect(w, r, "/looks/"+l.ID, http.StatusSeeOther)
}

// overview is one page of the groups of a look.
type overview struct {
	*look
	leaf

	Shown []*errorqueue.Group
}

// groups shows the groups of a look.
func (s *Server) groups(w http.ResponseWriter, r *http.Request) {
	if l := s.kept(w, r); l != nil {
		at := leafOf(r, len(l.Groups), groupsPerPage)
		s.write(w, r, http.StatusOK, "groups", view{Title: "Failed messages", Body: overview{l, at, l.Groups[at.from:at.to]}})
	}
}

// leaf is one page of what is too long for one: of those from First, which is counted from 1.
type leaf struct {
	First       int
	Prior, Next int // numbers of pages; 0 is none
	from, to    int
}

// These make pages of less than 50 kB, whatever services have written.
const groupsPerPage, messagesPerPage = 40, 50

// leafOf is the page of n entries that a request asks for, or the first.
func leafOf(r *http.Request, n, perPage int) leaf {
	last := (n + perPage - 1) / perPage
	number, err := strconv.Atoi(r.FormValue("page"))
	if err != nil || number < 1 || number > last {
		number = 1
	}
	from := (number - 1) * perPage
	l := leaf{First: from + 1, Prior: number - 1, from: from, to: min(from+perPage, n)}
	if number < last {
		l.Next = number + 1
	}
	return l
}

// selection is a part of a look: a group, one message, or all of it.
type selection struct {
	Look     *look
	Group    *errorqueue.Group // nil for all groups
	Message  string            // the id of one message, or ""
	Messages []errorqueue.Message
}

// selected reads which part of a look is meant. It is nil after it was said that there is no such part.
func (s *Server) selected(w http.ResponseWriter, r *http.Request) *selection {
	l := s.kept(w, r)
	if l == nil {
		return nil
	}
	c := &selection{Look: l, Message: r.FormValue("message"), Messages: l.Found.Messages}
	group := r.FormValue("group")
	if at := slices.IndexFunc(l.Groups, func(g *errorqueue.Group) bool { return g.ID == group }); at >= 0 {
		c.Group = l.Groups[at]
	}
	if c.Group != nil || c.Message != "" {
		c.Messages = slices.DeleteFunc(slices.Clone(c.Messages), func(m errorqueue.Message) bool {
			return c.Group != nil && m.Group != c.Group || c.Message != "" && m.ID() != c.Message
		})
	}
	if group != "" && c.Group == nil || len(c.Messages) == 0 {
		s.fault(w, r, http.StatusNotFound, "The look has no such messages", "Nothing was done. Look again.")
		return nil
	}
	return c
}

// Query names the selection in an address.
func (c *selection) Query() template.URL {
	q := url.Values{}
	if c.Group != nil {
		q.Set("group", c.Group.ID)
	}
	if c.Message != "" {
		q.Set("message", c.Message)
	}
	return template.URL(q.Encode()) //nolint:gosec // url.Values has encoded it
}

// sheet is one page of a list.
type sheet struct {
	*selection
	leaf

	Shown []errorqueue.Message
}

// list shows the messages of a selection.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	c := s.selected(w, r)
	if c == nil {
		return
	}
	at := leafOf(r, len(c.Messages), messagesPerPage)
	title := "All messages of the look"
	if c.Group != nil {
		title = "Messages of group " + c.Group.ID
	}
	s.write(w, r, http.StatusOK, "list", view{Title: title, Body: sheet{c, at, c.Messages[at.from:at.to]}})
}

// letter is a message as the page shows it.
type letter struct {
	Look              *look
	ID, MessageID     string
	Group             errorqueue.Group
	Parked            time.Time
	Attempts, Replays int
	Failed            []time.Time
	Host, Version     string
	Failure           string
	Headers           []field
	Size              int
	Body              string
	Indented          bool // JSON on one line is shown on several
	Cut, NoBody       bool
	Unreadable        bool
	Copies            int
	Peer              *Peer // nil for a message of harebus
}

// Peer is what a message of another bus says of itself.
type Peer struct {
	// Dialect names the bus, Payload is what is in its envelope, and Unreadable is why that cannot be read.
	Dialect, Payload, Unreadable string
	// Cut says that the page shows only the beginning of the payload.
	Cut bool
}

type field struct{ Name, Value string }

// show shows a message. It is read again, because a look keeps no bodies.
func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	l := s.kept(w, r)
	if l == nil {
		return
	}
	var found *letter
	id := r.PathValue("message")
	err := s.use(r.Context(), s.cfg.Errors, func(q *errorqueue.Queue) error {
		_, err := q.Each(r.Context(), errorqueue.Filter{IDs: []string{id}}, func(c *errorqueue.Content) error {
			if found == nil {
				found = s.letter(c)
			}
			found.Copies++
			return nil
		})
		return err
	})
	switch {
	case err != nil:
		s.broker(w, r, err)
	case found == nil:
		s.fault(w, r, http.StatusNotFound, "The message is not in the error queue any more", "Somebody has moved it since the look.")
	default:
		found.Look = l
		s.write(w, r, http.StatusOK, "message", view{Title: "Message " + found.ID, Body: found})
	}
}

// letter copies what the page shows of a message.
func (s *Server) letter(c *errorqueue.Content) *letter {
	l := &letter{
		ID: c.ID(), MessageID: c.MessageID, Group: *c.Group, Parked: c.Parked(), Attempts: c.Attempts, Replays: c.Replays,
		Failed: slices.Clone(c.Failed), Host: c.Host, Version: c.Version, Failure: c.Failure, Size: c.Size, Unreadable: c.Unreadable, NoBody: s.cfg.NoBodies,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if text := headerText(c.Headers[name]); text != c.Failure { // that is above
			l.Headers = append(l.Headers, field{name, text})
		}
	}
	if s.cfg.Peer != nil {
		l.Peer = s.cfg.Peer(c)
	}
	if s.cfg.NoBodies {
		if l.Peer != nil {
			l.Peer.Payload = ""
		}
		return l
	}
	if l.Body, l.Indented = draft.Indented(c.Body); !l.Indented {
		l.Body, l.Cut = bodyText(c.Body)
	}
	if l.Peer != nil {
		text, ok := draft.Indented([]byte(l.Peer.Payload))
		if !ok {
			text, l.Peer.Cut = bodyText([]byte(l.Peer.Payload))
		}
		l.Peer.Payload = text
	}
	return l
}

const longestShown = 64 << 10

// bodyText is a body for a reader.
func bodyText(body []byte) (text string, cut bool) {
	if cut = len(body) > longestShown; cut {
		body = body[:longestShown]
		for i := 1; i < utf8.UTFMax && !utf8.Valid(body); i++ { // it may end in the middle of a character
			body = body[:len(body)-1]
		}
	}
	if utf8.Valid(body) {
		return string(body), cut
	}
	return strconv.Quote(string(body)), cut
}

// headerText is the value of a header for a reader.
func headerText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []byte:
		return visible.Line(string(v))
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(text)
}
