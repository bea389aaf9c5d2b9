package page

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/refusal"
)

// look is what a look has found. Actions are about its messages and no others.
type look struct {
	ID     string
	Query  search
	Found  *errorqueue.Index
	Groups []*errorqueue.Group
}

// search is what the form for searching says.
type search struct{ Type, Source, Kind, Older, Newer, Header, Body, Error, ID string }

func searchOf(q url.Values) search {
	text := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	return search{
		Type: text("type"), Source: text("source"), Kind: text("kind"), Older: text("older"), Newer: text("newer"),
		Header: text("header"), Body: q.Get("body"), Error: q.Get("error"), ID: text("id"),
	}
}

// filter is the filter of the search.
func (f search) filter() (errorqueue.Filter, error) {
	filter := errorqueue.Filter{Type: f.Type, Queue: f.Source, Kind: f.Kind, Body: f.Body, Failure: f.Error}
	var faults []error
	if f.ID != "" {
		filter.IDs = []string{f.ID}
	}
	if f.Header != "" {
		name, value, ok := strings.Cut(f.Header, "=")
		if !ok || name == "" {
			faults = append(faults, fmt.Errorf("the header %q is not of the form name=value", f.Header))
		}
		filter.Headers = map[string]string{name: value}
	}
	for _, limit := range []struct {
		text string
		at   *time.Time
	}{{f.Older, &filter.Before}, {f.Newer, &filter.After}} {
		if limit.text == "" {
			continue
		}
		d, err := time.ParseDuration(limit.text)
		if err != nil || d <= 0 {
			faults = append(faults, fmt.Errorf("%q is not a time such as 10m or 2h30m", limit.text))
			continue
		}
		*limit.at = time.Now().Add(-d)
	}
	return filter, errors.Join(faults...)
}

// trouble is what is wrong, and what to do.
type trouble struct {
	Status        int
	Title, Advice string
}

// errBusy says that this page uses the error queue itself.
var errBusy = errors.New("an action of this page is at work")

// use calls fn with the open error queue. One at a time uses it: a look waits for another one, but not
// for an action.
func (s *Server) use(ctx context.Context, cfg errorqueue.Config, fn func(*errorqueue.Queue) error) error {
	select {
	case <-s.free:
	default:
		if s.active() != nil {
			return errBusy
		}
		if err := claim(ctx, s.free); err != nil {
			return err
		}
	}
	defer func() { s.free <- struct{}{} }()
	return errorqueue.With(ctx, cfg, fn)
}

// claim waits for a token.
func claim(ctx context.Context, token <-chan struct{}) error {
	select {
	case <-token:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take looks at the error queue and keeps what it finds.
func (s *Server) take(ctx context.Context, query search, filter errorqueue.Filter) (*look, error) {
	l := &look{ID: rand.Text(), Query: query}
	err := s.use(ctx, s.cfg.Errors, func(q *errorqueue.Queue) (err error) {
		l.Found, err = q.Look(ctx, filter)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.Groups = l.Found.Groups()
	const most = 4 // 100,000 messages need 20 MB
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks = append(s.looks, l); len(s.looks) > most {
		s.looks = slices.Delete(s.looks, 0, 1) // which leaves nothing behind
	}
	return l, nil
}

// lookOf is the look with this id, or nil if it is not kept any more.
func (s *Server) lookOf(id string) *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.looks, func(l *look) bool { return l.ID == id })
	if at < 0 {
		return nil
	}
	return s.looks[at]
}

// kept is the look that an address names, or nil after it was said that it is gone.
func (s *Server) kept(w http.ResponseWriter, r *http.Request) *look {
	found := s.lookOf(r.PathValue("look"))
	if found == nil {
		s.fault(w, r, http.StatusGone, "This look is no longer kept", "The page keeps the last four. Nothing was done. Look again.")
	}
	return found
}

// broker says what is wrong with the broker or the error queue.
func (s *Server) broker(w http.ResponseWriter, r *http.Request, err error) {
	t := troubleOf(err)
	s.fault(w, r, t.Status, t.Title, t.Advice)
}

func troubleOf(err error) *trouble {
	switch {
	case errors.Is(err, errBusy):
		return &trouble{http.StatusConflict, "An action is at work", "It holds the error queue. See the page Actions; look again when it has ended."}
	case errors.Is(err, errorqueue.ErrLocked):
		return &trouble{http.StatusConflict, "Another operator works with the error queue", "Look again when that has ended. " + err.Error() + "."}
	case refusal.Missing(err):
		return &trouble{http.StatusNotFound, "The broker does not have it", err.Error() + "."}
	}
	return &trouble{http.StatusBadGateway, "That did not work", err.Error() + "."}
}
