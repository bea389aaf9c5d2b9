package service

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/harebus/harebus"
)

// Probes returns a handler that answers GET /live and GET /ready with 200 and "ok", or
// with 503 and the reason, a line for each setup that has one: see [harebus.Setup.Live]
// and [harebus.Setup.Ready]. It sends nothing to the broker, does not block, and shows
// no password. Served by [Run], /ready fails as soon as stopping begins.
//
// The reasons contain hosts and queues: serve them to your operators, not to the
// public.
func Probes(setups ...*harebus.Setup) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", probe(setups, (*harebus.Setup).Live))
	ready := probe(setups, (*harebus.Setup).Ready)
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if running, ok := r.Context().Value(runningKey{}).(context.Context); ok && running.Err() != nil {
			refuse(w, errStopping)
			return
		}
		ready(w, r)
	})
	return mux
}

var errStopping = errors.New("the service is stopping")

func probe(setups []*harebus.Setup, check func(*harebus.Setup) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var faults []error
		for _, s := range setups {
			faults = append(faults, check(s))
		}
		if err := errors.Join(faults...); err != nil {
			refuse(w, err)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // whoever asked may have gone
	}
}

func refuse(w http.ResponseWriter, why error) {
	http.Error(w, why.Error(), http.StatusServiceUnavailable)
}
