package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
)

// later defers a message by an hour.
func (x *bench) later() harebus.Ticket {
	x.Helper()
	setup, err := harebus.New(harebus.Config{Dial: x.broker.Dial})
	x.try(err)
	var ticket harebus.Ticket
	x.try(setup.Bus().Defer(x.Context(), "orders", time.Hour, "later", harebus.WithType("Remind"), harebus.WithTicket(&ticket)))
	x.try(setup.Close())
	return ticket
}

// TestCancelDeferred: a message that waits is cancelled on the page, and the cancellation taken back.
func TestCancelDeferred(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		ticket := x.later()
		list := x.get("/deferred/list")
		path := x.link(list, "Cancel")
		x.expect(x.get(path), http.StatusOK, "Cancel the message", ticket.ID, "Type 1 to confirm")
		post := func(do, ticket, count string) *answer {
			return x.post("/deferred/"+do, url.Values{"ticket": {ticket}, "count": {count}})
		}
		x.expect(post("cancel", ticket.String(), "2"), http.StatusUnprocessableEntity, "The number is not 1. Nothing was done.")
		for _, wrong := range []string{"", "x", "20261129T060000.000Z-", "<script>"} {
			x.expect(post("cancel", wrong, "1"), http.StatusBadRequest, "There is no such ticket")
		}
		odd := harebus.Ticket{ID: "a\nb", Due: ticket.Due}
		x.expect(post("cancel", odd.String(), "1"), http.StatusConflict, "invisible characters", "Nothing was done")
		x.form, list.html = "wrong", x.form
		x.expect(post("cancel", ticket.String(), "1"), http.StatusForbidden)
		x.form = list.html
		x.expect(x.get("/deferred"), http.StatusOK, "Cancelled, kept for seven days 0")
		done := post("cancel", ticket.String(), "1")
		x.expect(done, http.StatusOK, "It is cancelled for certain.", "Take it back…")
		x.get(path)               // has the token
		time.Sleep(2 * time.Hour) // virtual
		x.has("orders", "")
		x.expect(x.get("/deferred"), http.StatusOK, "Cancelled, kept for seven days 1")
		x.expect(post("cancel", ticket.String(), "1"), http.StatusConflict, "due") // too late to say anything
		back := x.get(x.link(done, "Take it back"))
		x.expect(back, http.StatusOK, "Take the cancellation back", "it is sent to its destination now")
		x.expect(post("restore", ticket.String(), "1"), http.StatusOK, "it was due and has been sent")
		time.Sleep(time.Second) // virtual
		x.has("orders", ticket.ID)
		x.expect(post("restore", ticket.String(), "1"), http.StatusConflict, ticket.ID) // it is not among the cancelled any more
		x.has("orders", ticket.ID)
	})
}

// TestCancelReadOnly: on a page that is read-only nothing is cancelled.
func TestCancelReadOnly(t *testing.T) {
	bubble(t, func(c *page.Config) { c.ReadOnly = true }, func(x *bench) {
		ticket := x.later()
		if list := x.get("/deferred/list"); strings.Contains(list.html, "Cancel…") || !strings.Contains(list.html, ticket.ID) {
			t.Error(list.html)
		}
		x.expect(x.get("/deferred/cancel?ticket="+url.QueryEscape(ticket.String())), http.StatusNotFound)
		x.expect(x.get("/deferred/restore?ticket="+url.QueryEscape(ticket.String())), http.StatusNotFound)
	})
}
