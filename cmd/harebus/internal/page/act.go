package page

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/topology"
)

// deed is an action that the operator is to confirm.
type deed struct {
	*selection

	Do      string // retry, redirect, discard or edit
	To      string // the queue of a redirect or an edit
	Rate    int
	File    string   // the archive of a discard; another one each time
	edition *edition // the new body of an edit
}

// Verb is the action for a heading.
func (d *deed) Verb() string {
	return map[string]string{"retry": "Retry", "redirect": "Redirect", "discard": "Archive and remove", "edit": "Edit"}[d.Do]
}

// Folder is where the archive is made.
func (d *deed) Folder() string { return filepath.Dir(d.File) }

// deed reads which action is meant. It is nil after it was said that there is none.
func (s *Server) deed(w http.ResponseWriter, r *http.Request) *deed {
	c := s.selected(w, r)
	if c == nil {
		return nil
	}
	d := &deed{selection: c, Do: r.FormValue("do"), To: strings.TrimSpace(r.FormValue("to")), Rate: cmp.Or(s.cfg.Rate, defaultRate)}
	switch {
	case d.Verb() == "" || d.Do == "edit": // which has a form of its own
		s.fault(w, r, http.StatusBadRequest, "There is no such action", "Nothing was done.")
		return nil
	case d.Do == "discard" && s.cfg.Archive == "":
		s.fault(w, r, http.StatusConflict, "There is no archive", "Messages are removed only into an archive. Start harebus ui with -archive and the folder for it. Nothing was done.")
		return nil
	}
	d.File = filepath.Join(s.cfg.Archive, "harebus-"+time.Now().UTC().Format("20060102T150405")+"-"+rand.Text()[:6]+".ndjson")
	return d
}

const defaultRate = 100

// confirm asks whether an action is meant.
func (s *Server) confirm(w http.ResponseWriter, r *http.Request) {
	if d := s.deed(w, r); d != nil {
		s.ask(w, r, http.StatusOK, d, "")
	}
}

func (s *Server) ask(w http.ResponseWriter, r *http.Request, status int, d *deed, fault string) {
	s.write(w, r, status, "confirm", view{Title: d.Verb() + " " + count(len(d.Messages), "message"), Fault: fault, Body: d})
}

// act begins an action, if the operator has typed the number of its messages.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	d := s.deed(w, r)
	if d == nil {
		return
	}
	rate, err := strconv.Atoi(r.FormValue("rate"))
	if err == nil {
		d.Rate = rate
	}
	switch {
	case strings.TrimSpace(r.FormValue("count")) != strconv.Itoa(len(d.Messages)):
		s.ask(w, r, http.StatusUnprocessableEntity, d, fmt.Sprintf("The number is not %d. Nothing was done.", len(d.Messages)))
		return
	case err != nil || rate < 1:
		s.ask(w, r, http.StatusUnprocessableEntity, d, "The rate is not a number from 1. Nothing was done.")
		return
	case d.Do == "redirect":
		if err := topology.ValidName("queue", d.To); err != nil {
			s.ask(w, r, http.StatusUnprocessableEntity, d, err.Error()+". Nothing was done.")
			return
		}
	}
	started, err := s.start(d)
	if err != nil {
		s.broker(w, r, err)
		return
	}
	http.Redirect(w, r, "/actions/"+started.ID, http.StatusSeeOther)
}

// run is an action that was begun. It does not keep the messages: a look may have many.
type run struct {
	ID       string
	Do, Verb string
	Count    int    // of its messages
	File     string // the archive of a discard
	To       string // the queue that the operator has named
	Path     string // the message that is edited, or the queue of an order
	Began    time.Time

	stop context.CancelFunc
	done chan struct{} // closed at the end

	// The server's mu guards the rest.
	Moved, LeftSoFar int
	Ended            time.Time
	Report           errorqueue.Report
	Err              error
	Journal          string
	Stopped          bool
	Typed            string            // for an edit: kept until that has succeeded
	Results          []services.Result // of an order to services
	Notes            []string
}

// start begins an action, unless the error queue is in use.
func (s *Server) start(d *deed) (*run, error) {
	select {
	case <-s.free:
	default:
		return nil, errBusy
	}
	ctx, stop := context.WithCancel(s.ctx)
	one := &run{ID: rand.Text(), Do: d.Do, Verb: d.Verb(), Count: len(d.Messages), File: d.File, To: d.To, Began: time.Now(), stop: stop, done: make(chan struct{})}
	if d.edition != nil {
		one.Path, one.Typed = d.edition.Path, d.edition.Typed
	}
	s.keep(one)
	s.running.Go(func() {
		defer stop()
		defer close(one.done)
		report, journal, err := s.carryOut(ctx, d, one)
		s.mu.Lock()
		one.Report, one.Journal, one.Err, one.Ended = report, journal, err, time.Now()
		if one.Report.Done > 0 {
			one.Typed = ""
		}
		s.mu.Unlock()
		s.free <- struct{}{}
	})
	return one, nil
}

// keep adds an action to those that are shown.
func (s *Server) keep(one *run) {
	const most = 20
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs = append(s.runs, one); len(s.runs) > most {
		s.runs = slices.Delete(s.runs, 0, 1)
	}
}

// carryOut carries an action out, with a journal that stays only when something is left to know.
func (s *Server) carryOut(ctx context.Context, d *deed, one *run) (report errorqueue.Report, journal string, err error) {
	file, err := os.CreateTemp("", "harebus-errors-*.ndjson")
	if err != nil {
		return report, "", fmt.Errorf("make a journal: %w", err)
	}
	journal = file.Name()
	if err = file.Close(); err != nil {
		return report, journal, err
	}
	o := errorqueue.Options{To: d.To, Rate: d.Rate, Journal: journal, Progress: func(done, left, _ int) {
		s.mu.Lock()
		one.Moved, one.LeftSoFar = done, left
		s.mu.Unlock()
	}}
	err = errorqueue.With(ctx, s.cfg.Errors, func(q *errorqueue.Queue) (err error) {
		report, err = d.carryOut(ctx, q, o)
		return err
	})
	if err == nil && len(report.Left)+report.Gone+report.Remaining+len(report.Twice) == 0 {
		return report, "", os.Remove(journal)
	}
	return report, journal, err
}

func (d *deed) carryOut(ctx context.Context, q *errorqueue.Queue, o errorqueue.Options) (report errorqueue.Report, err error) {
	switch d.Do {
	case "edit":
		return q.Edit(ctx, d.Messages[0], d.edition.body, o)
	case "retry", "redirect":
		return q.Retry(ctx, d.Messages, o)
	}
	file, err := os.OpenFile(d.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // deed has made the name: a folder of the command line, a time, random letters
	if err != nil {
		return report, fmt.Errorf("open the archive: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	o.To = ""
	return q.Discard(ctx, d.Messages, file, o)
}

// active is the action under way, or nil.
func (s *Server) active() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.runs {
		if one.Ended.IsZero() {
			return one
		}
	}
	return nil
}

// Percent is how much of the action is done.
func (r *run) Percent() int { return 100 * (r.Moved + r.LeftSoFar) / max(1, r.Count) }

// Clean says whether everything was done that was asked for.
func (r *run) Clean() bool {
	return r.Err == nil && len(r.Report.Left)+r.Report.Gone+r.Report.Remaining+len(r.Report.Twice) == 0
}

// find is a copy of the action that an address names.
func (s *Server) find(id string) (one run, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.runs, func(r *run) bool { return r.ID == id })
	if at < 0 {
		return run{}, false
	}
	return *s.runs[at], true
}

// actions shows all actions, the newest first.
func (s *Server) actions(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	all := make([]run, 0, len(s.runs))
	for _, one := range slices.Backward(s.runs) {
		all = append(all, *one)
	}
	s.mu.Unlock()
	s.write(w, r, http.StatusOK, "actions", view{Title: "Actions", Body: all})
}

// progress shows an action.
func (s *Server) progress(w http.ResponseWriter, r *http.Request) {
	one, ok := s.find(r.PathValue("run"))
	if !ok {
		s.fault(w, r, http.StatusNotFound, "There is no such action", "The page keeps the last twenty. The page Log has the audit trail.")
		return
	}
	title := one.Verb + ": at work"
	switch {
	case one.Ended.IsZero():
	case one.Clean():
		title = one.Verb + ": done"
	default:
		title = one.Verb + ": not everything was done"
	}
	s.write(w, r, http.StatusOK, "progress", view{Title: title, Body: &one})
}

// halt stops an action after the messages in hand.
func (s *Server) halt(w http.ResponseWriter, r *http.Request) {
	one, ok := s.find(r.PathValue("run"))
	if !ok {
		s.fault(w, r, http.StatusNotFound, "There is no such action", "Nothing was stopped.")
		return
	}
	s.mu.Lock()
	for _, known := range s.runs {
		known.Stopped = known.Stopped || known.ID == one.ID && known.Ended.IsZero()
	}
	s.mu.Unlock()
	one.stop()
	select {
	case <-one.done:
	case <-time.After(longestWait):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, "/actions/"+one.ID, http.StatusSeeOther)
}

// longestWait is how long stopping waits for the end before it shows what there is.
const longestWait = 2 * time.Second
