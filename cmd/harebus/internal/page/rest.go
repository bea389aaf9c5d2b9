package page

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/refusal"
)

// deferred shows how many messages wait. It touches none.
func (s *Server) deferred(w http.ResponseWriter, r *http.Request) {
	counts, err := s.cfg.Deferred.Count(r.Context())
	if err != nil {
		s.broker(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, "deferred", view{Title: "Deferred messages", Body: counts})
}

// waits are messages that wait.
type waits struct {
	To, Type string
	Items    []deferred.Item
	Cut      bool
	Unseen   int
}

// waiting shows the messages that wait, after it has looked at them.
func (s *Server) waiting(w http.ResponseWriter, r *http.Request) {
	const most = 1000
	v := waits{To: strings.TrimSpace(r.FormValue("to")), Type: strings.TrimSpace(r.FormValue("type"))}
	seen := 0
	unseen, err := s.cfg.Deferred.List(r.Context(), most, func(i deferred.Item) {
		seen++
		if (v.To == "" || i.Key == v.To) && (v.Type == "" || i.Type == v.Type) {
			i.Delivery = nil
			v.Items = append(v.Items, i)
		}
	})
	if err != nil {
		s.broker(w, r, err)
		return
	}
	v.Cut, v.Unseen = seen == most, unseen
	slices.SortStableFunc(v.Items, func(a, b deferred.Item) int { return a.Due.Compare(b.Due) })
	s.write(w, r, http.StatusOK, "waiting", view{Title: "Messages that wait", Tab: "/deferred", Body: v})
}

// topology shows what differs from the topology.
func (s *Server) topology(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Plan == nil {
		s.fault(w, r, http.StatusOK, "There is no topology to compare with", "Start harebus ui with -topology and the file that the service prints.")
		return
	}
	p, err := s.cfg.Plan(r.Context())
	if err != nil {
		s.broker(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, "topology", view{Title: "Topology", Body: p})
}

// doctor shows what is wrong.
func (s *Server) doctor(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Doctor == nil {
		s.fault(w, r, http.StatusOK, "There is no topology to examine", "Start harebus ui with -topology and the file that the service prints.")
		return
	}
	report, err := s.cfg.Doctor(r.Context())
	if err != nil {
		s.broker(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, "doctor", view{Title: "Doctor", Body: report})
}

// trail is an entry of the audit trail.
type trail struct {
	At        time.Time `json:"at"`
	Run       string    `json:"run"`
	Phase     string    `json:"phase"`
	Operator  string    `json:"operator"`
	Action    string    `json:"action"`
	Queue     string    `json:"queue"`
	To        string    `json:"to"`
	Selected  int       `json:"selected"`
	Done      int       `json:"done"`
	Left      int       `json:"left"`
	Gone      int       `json:"gone"`
	Remaining int       `json:"remaining"`
	Twice     int       `json:"perhaps_twice"`
	User      string    `json:"-"` // the broker has checked it
}

// log shows the audit trail, the newest entry first.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	const most = 200
	cfg := s.cfg.Errors
	cfg.Name, cfg.NoAudit = errorqueue.AuditQueue, true
	var entries []trail
	err := claim(r.Context(), s.freeLog) // of two tabs the second would find it locked
	if err != nil {
		s.broker(w, r, err)
		return
	}
	defer func() { s.freeLog <- struct{}{} }()
	err = errorqueue.With(r.Context(), cfg, func(q *errorqueue.Queue) error {
		_, err := q.Each(r.Context(), errorqueue.Filter{}, func(c *errorqueue.Content) error {
			var e trail
			if json.Unmarshal(c.Body, &e) != nil {
				return nil //nolint:nilerr // it is not an entry
			}
			e.User = c.Properties.UserID
			if entries = append(entries, e); len(entries) > most {
				entries = entries[1:]
			}
			return nil
		})
		return err
	})
	if err != nil && !refusal.Missing(err) {
		s.broker(w, r, err)
		return
	}
	slices.Reverse(entries)
	s.write(w, r, http.StatusOK, "log", view{Title: "Log", Body: entries})
}
