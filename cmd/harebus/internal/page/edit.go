package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/draft"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/topology"
)

// longestEdited is the largest body that the page shows in a field.
const longestEdited = 1 << 20

// edition is the form in which the body of a message is edited.
type edition struct {
	*letter // nil if the message cannot be read now

	Path   string // of the message
	Draft  draft.Draft
	Typed  string // what is in the field
	To     string
	Locked string        // why it cannot be edited here
	Lost   bool          // there is no such message any more: what was typed can only be copied
	Change *draft.Change // what the edit would change, once that is known

	look   *look
	target errorqueue.Message // as the look has found it
	posted bool
	large  bool
	old    []byte // the body as it is
	body   []byte // that was typed
	wrong  error  // what is wrong with it
}

// Known says whether the message could be read.
func (e *edition) Known() bool { return e.letter != nil }

// Editable says whether the command can edit what the page cannot.
func (e *edition) Editable() bool { return e.large }

// Rows is how high the field is.
func (e *edition) Rows() int {
	const least, most = 8, 30
	return min(max(strings.Count(e.Typed, "\n")+2, least), most)
}

// edit shows the form.
func (s *Server) edit(w http.ResponseWriter, r *http.Request) {
	e := editionOf(r)
	one, ok := s.find(r.FormValue("run"))
	again := ok && one.Typed != "" && one.Path == e.Path // what was typed for an edit that did not succeed
	if again {
		e.Typed, e.To = one.Typed, one.To
	}
	switch t := s.open(r, e); {
	case t != nil && again:
		s.again(w, r, t.Status, e, t.Title+". "+t.Advice)
		return
	case t != nil:
		s.fault(w, r, t.Status, t.Title, t.Advice)
		return
	case !again:
		e.Typed = e.Draft.Text
	}
	s.write(w, r, http.StatusOK, "edit", view{Title: "Edit message " + e.ID, Body: e})
}

func editionOf(r *http.Request) *edition {
	return &edition{Path: "/looks/" + r.PathValue("look") + "/messages/" + r.PathValue("message")}
}

// send sends the edited message, if there is nothing wrong with it, and what it changes was shown before. Otherwise the form comes again with
// what was typed.
func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	e := editionOf(r)
	e.Typed, e.To, e.posted = r.PostFormValue("body"), strings.TrimSpace(r.PostFormValue("to")), true
	if t := s.open(r, e); t != nil {
		s.again(w, r, t.Status, e, t.Title+". "+t.Advice)
		return
	}
	if why := e.refuses(); why != "" {
		s.again(w, r, http.StatusUnprocessableEntity, e, why)
		return
	}
	e.Change = draft.Compare(e.old, e.body)
	switch shown := r.PostFormValue("shown"); {
	case shown != e.Shown():
		note := ""
		if shown != "" {
			note = "What you have sent is not what was shown. This is what it changes. Nothing was done."
		}
		s.write(w, r, http.StatusOK, "edit", view{Title: "Edit message " + e.ID, Fault: note, Body: e})
		return
	case strings.TrimSpace(r.PostFormValue("count")) != "1":
		s.again(w, r, http.StatusUnprocessableEntity, e, "The number is not 1.")
		return
	}
	one, err := s.start(&deed{
		selection: &selection{Look: e.look, Message: e.ID, Messages: []errorqueue.Message{e.target}}, Do: "edit", To: e.To, Rate: defaultRate, edition: e,
	})
	if err != nil {
		t := troubleOf(err)
		s.again(w, r, t.Status, e, t.Title+". "+t.Advice)
		return
	}
	select {
	case <-one.done:
	case <-time.After(longestWait):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, "/actions/"+one.ID, http.StatusSeeOther)
}

// again shows the form again.
func (s *Server) again(w http.ResponseWriter, r *http.Request, status int, e *edition, why string) {
	s.write(w, r, status, "edit", view{Title: "Edit message " + r.PathValue("message"), Fault: why + " Nothing was done.", Body: e})
}

// Shown names what was shown to the operator: the change, and where the message goes.
func (e *edition) Shown() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", e.To, e.old, e.body))
	return hex.EncodeToString(sum[:])
}

// refuses says what is wrong with what was typed.
func (e *edition) refuses() string {
	unchanged, err := e.Draft.Body(e.Draft.Text)
	switch {
	case e.Locked != "":
		return sentence(e.Locked)
	case e.wrong != nil:
		return sentence(e.wrong.Error())
	case err == nil && string(e.body) == string(unchanged):
		return "The body is as it was. To have the message handled again as it is, retry it."
	case e.To != "":
		if err := topology.ValidName("queue", e.To); err != nil {
			return sentence(err.Error())
		}
	}
	return ""
}

// sentence makes a sentence of the text of an error.
func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] + "." }

// open finds the message: as the look has found it, and as it is now.
func (s *Server) open(r *http.Request, e *edition) *trouble {
	id := r.PathValue("message")
	if e.look = s.lookOf(r.PathValue("look")); e.look == nil {
		e.Lost = true
		return &trouble{http.StatusGone, "This look is no longer kept", "The page keeps the last four. Look again."}
	}
	found := 0
	for _, m := range e.look.Found.Messages {
		if m.ID() == id {
			e.target, found = m, found+1
		}
	}
	switch {
	case found == 0:
		e.Lost = true
		return &trouble{http.StatusNotFound, "The look has no such message", "Look again."}
	case found > 1:
		return &trouble{http.StatusConflict, fmt.Sprintf("%d messages have this id", found), "An edit changes one. They are copies that an interrupted action has left: archive them, and restore one of the lines of the file."}
	}
	changed := false
	err := s.use(r.Context(), s.cfg.Errors, func(q *errorqueue.Queue) error {
		_, err := q.Each(r.Context(), errorqueue.Filter{IDs: []string{id}}, func(c *errorqueue.Content) error {
			switch {
			case !c.Same(&e.target):
				changed = changed || c.ID() == id
			case e.letter == nil:
				e.fill(s, q, c)
			}
			return nil
		})
		return err
	})
	switch {
	case err != nil:
		return troubleOf(err)
	case e.letter != nil:
		return nil
	case changed:
		e.Lost = true
		return &trouble{http.StatusConflict, "The message is not what it was", "Its body or its id was changed since the look. Look again."}
	}
	e.Lost = true
	return &trouble{http.StatusNotFound, "The message is not in the error queue any more", "Somebody has moved it since the look."}
}

// fill copies what the form shows of a message, and checks what was typed.
func (e *edition) fill(s *Server, q *errorqueue.Queue, c *errorqueue.Content) {
	e.letter = s.letter(c)
	e.Look = e.look
	if err := q.Editable(c); err != nil {
		e.Locked = err.Error()
		return
	}
	if len(c.Body) > longestEdited {
		e.large, e.Locked = true, fmt.Sprintf("its body has %d bytes, more than the %d that this page edits", len(c.Body), longestEdited)
		return
	}
	e.Draft = draft.Of(c.Body)
	if !e.posted {
		return
	}
	e.old = bytes.Clone(c.Body)
	if e.body, e.wrong = e.Draft.Body(e.Typed); e.wrong == nil {
		e.wrong = q.Accepts(c, e.body)
	}
}
