// Package page is a web page for the person who runs services: failed messages in groups, what is
// in them, retrying, redirecting, editing and archiving them, what waits for its time,
// what the instances of services say, the topology and the doctor. It is the command line on a page and uses the same packages.
//
// The page is HTML that the server writes (assets/*.html) and works without JavaScript. Who may see it
// is decided in guard.go.
package page

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"net/http"
	"sync"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/scheduled"
)

// Config says what the page shows.
type Config struct {
	// Errors is the error queue, Deferred where deferred messages are.
	Errors   errorqueue.Config
	Deferred deferred.Options
	// Plan compares the broker with a topology, Doctor examines it. They are nil without a topology.
	Plan   func(context.Context) (*plan.Plan, error)
	Doctor func(context.Context) (*doctor.Report, error)
	// Schedules sees the recurring schedules whose tokens are in a queue. ScheduleQueues are such
	// queues of the topology.
	Schedules      func(ctx context.Context, queue string) (*scheduled.State, error)
	ScheduleQueues []string
	// Services says how instances of services are asked. ServiceQueues are queues of which an answer is expected.
	Services      services.Options
	ServiceQueues []string
	// Peer, if not nil, reads messages of other buses; it returns nil for others.
	Peer func(*errorqueue.Content) *Peer
	// Broker is what the page says about where it looks. It has no password.
	Broker string
	// ReadOnly has no actions, NoBodies shows no bodies.
	ReadOnly, NoBodies bool
	// Archive is the folder for messages that are discarded. Without one, none can be.
	Archive string
	// Rate is how many messages a second an action moves, unless the operator says otherwise.
	Rate int
}

// Server is the page.
type Server struct {
	cfg     Config
	handler http.Handler
	gate    gate
	// free has a token while nobody uses the error queue: a look, an action.
	free chan struct{}
	// freeLog has a token while nobody reads the audit trail. An action does not keep it.
	freeLog chan struct{}
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup // actions

	mu    sync.Mutex // guards what follows
	looks []*look    // the newest last
	runs  []*run     // the newest last
	watch services.Watch
}

// New makes the page for a server that listens on address, host:port.
func New(cfg Config, address string) *Server {
	cfg.Errors.Name = cmp.Or(cfg.Errors.Name, "error")
	s := &Server{cfg: cfg, gate: newGate(address), free: make(chan struct{}, 1), freeLog: make(chan struct{}, 1)}
	s.free <- struct{}{}
	s.freeLog <- struct{}{}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.handler = s.gate.protect(s.routes(), http.HandlerFunc(s.refuse))
	return s
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Address is where the operator goes first. It works once.
func (s *Server) Address() string {
	return "http://" + s.gate.address + loginPath + "?token=" + s.gate.token
}

// Close stops a running action after the messages in hand, and waits for it.
func (s *Server) Close() {
	s.stop()
	s.running.Wait()
}

//go:embed assets
var assets embed.FS

// routes are the pages. A page that only looks has no routes for actions.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", http.RedirectHandler("/errors", http.StatusSeeOther))
	mux.HandleFunc("GET /errors", s.lookAgain)
	mux.HandleFunc("GET /looks/{look}", s.groups)
	mux.HandleFunc("GET /looks/{look}/messages", s.list)
	mux.HandleFunc("GET /looks/{look}/messages/{message}", s.show)
	mux.HandleFunc("GET /deferred", s.deferred)
	mux.HandleFunc("GET /deferred/list", s.waiting)
	mux.HandleFunc("GET /schedules", s.schedules)
	mux.HandleFunc("GET /services", s.services)
	mux.HandleFunc("GET /topology", s.topology)
	mux.HandleFunc("GET /doctor", s.doctor)
	mux.HandleFunc("GET /log", s.log)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		s.fault(w, r, http.StatusNotFound, "There is no such page", "The address is wrong, or this page is read-only, or shows no bodies.")
	})
	if !s.cfg.ReadOnly {
		mux.HandleFunc("GET /looks/{look}/act", s.confirm)
		mux.HandleFunc("POST /looks/{look}/act", s.act)
		if !s.cfg.NoBodies {
			mux.HandleFunc("GET /looks/{look}/messages/{message}/edit", s.edit)
			mux.HandleFunc("POST /looks/{look}/messages/{message}/edit", s.send)
		}
		for _, do := range []string{"cancel", "restore"} {
			mux.HandleFunc("GET /deferred/"+do, s.recall(do))
			mux.HandleFunc("POST /deferred/"+do, s.recall(do))
		}
		mux.HandleFunc("GET /services/order", s.order)
		mux.HandleFunc("POST /services/order", s.order)
		mux.HandleFunc("GET /actions", s.actions)
		mux.HandleFunc("GET /actions/{run}", s.progress)
		mux.HandleFunc("POST /actions/{run}/stop", s.halt)
	}
	return mux
}

// secret is a text that nobody guesses.
func secret() string { return rand.Text() + rand.Text() }

// ago is how long something is past, for a person.
func ago(at time.Time) string {
	if at.IsZero() {
		return "unknown"
	}
	switch d := time.Since(at); {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return count(int(d/time.Minute), "minute") + " ago"
	case d < 2*24*time.Hour:
		return count(int(d/time.Hour), "hour") + " ago"
	default:
		return count(int(d/(24*time.Hour)), "day") + " ago"
	}
}
