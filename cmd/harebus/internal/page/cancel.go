package page

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// recall is a deferred message that is cancelled, or whose cancellation is taken back.
type recall struct {
	Do     string // cancel or restore
	Ticket topology.Ticket
	Done   string // what has become of it
}

// Verb is the action for a heading and a button.
func (c *recall) Verb() string {
	return map[string]string{"cancel": "Cancel the message", "restore": "Take the cancellation back"}[c.Do]
}

// recall asks whether a deferred message is to be cancelled, or its cancellation taken back, and does that when the operator has typed
// the number of messages, which is one.
func (s *Server) recall(do string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ticket, err := topology.ParseTicket(r.FormValue("ticket"))
		switch {
		case err != nil:
			s.fault(w, r, http.StatusBadRequest, "There is no such ticket", err.Error()+". Nothing was done.")
			return
		case strings.ContainsFunc(ticket.ID, func(c rune) bool { return !strconv.IsPrint(c) }): // a form may change it, and then another message is meant
			s.fault(w, r, http.StatusConflict, "This ticket is not for a page", "The message id has invisible characters. Use harebus deferred "+do+". Nothing was done.")
			return
		}
		c, status, fault := &recall{Do: do, Ticket: ticket}, http.StatusOK, ""
		switch {
		case r.Method != http.MethodPost:
		case strings.TrimSpace(r.PostFormValue("count")) != "1":
			status, fault = http.StatusUnprocessableEntity, "The number is not 1. Nothing was done."
		default:
			if c.Done, err = s.carryOutRecall(r.Context(), c); err != nil {
				status, fault = http.StatusConflict, err.Error()+"."
			}
		}
		s.write(w, r, status, "recall", view{Title: c.Verb(), Tab: "/deferred", Fault: fault, Body: c})
	}
}

// carryOutRecall goes on when the browser has gone: half of it would be of no use.
func (s *Server) carryOutRecall(ctx context.Context, c *recall) (done string, err error) {
	timeout := s.cfg.Deferred.Timeout
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, fmt.Errorf("gave up after %v", timeout))
	defer cancel()
	if c.Do == "restore" {
		restored, err := s.cfg.Deferred.Restore(ctx, c.Ticket)
		return "The cancellation is taken back: " + string(restored) + ".", err
	}
	var cfg harebus.Config
	s.cfg.Deferred.Broker.Apply(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		return "", err
	}
	err = setup.Bus().Cancel(ctx, c.Ticket)
	_ = setup.Close() // what was asked of the broker is answered
	return "It is cancelled for certain.", err
}
