package page

import (
	"net/http"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/topology"
)

// timetable are the recurring schedules of a service.
type timetable struct {
	Queues []string // that the topology has
	Queue  string   // the one that is shown, or ""
	State  *scheduled.State
	Now    time.Time
}

// Remarks are what is unusual about a schedule.
func (t timetable) Remarks(of scheduled.Token) string {
	return strings.Join(t.State.Remarks(&of, t.Now), ", ")
}

// schedules shows the recurring schedules of a service, as its leader says. If no instance runs, the tokens are read
// and left in their queue.
func (s *Server) schedules(w http.ResponseWriter, r *http.Request) {
	t := timetable{Queues: s.cfg.ScheduleQueues, Queue: strings.TrimSpace(r.FormValue("queue")), Now: time.Now()}
	if t.Queue == "" && len(t.Queues) == 1 {
		t.Queue = t.Queues[0]
	}
	if t.Queue == "" {
		s.write(w, r, http.StatusOK, "schedules", view{Title: "Schedules", Body: t})
		return
	}
	err := topology.ValidName("queue", t.Queue)
	if err == nil && !strings.HasSuffix(t.Queue, scheduled.Suffix) { // a look at another queue could take its messages
		t.Queue += scheduled.Suffix
	}
	if err != nil {
		s.write(w, r, http.StatusBadRequest, "schedules", view{Title: "Schedules", Fault: err.Error(), Body: timetable{Queues: t.Queues}})
		return
	}
	if t.State, err = s.cfg.Schedules(r.Context(), t.Queue); err != nil {
		s.broker(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, "schedules", view{Title: "Schedules of queue " + t.Queue, Body: t})
}
