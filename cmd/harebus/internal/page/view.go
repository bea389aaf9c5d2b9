package page

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/internal/visible"
)

// tab is an entry of the navigation.
type tab struct{ Path, Name string }

// tabs are the parts of the page. A new part is a line here, a route and a template.
var tabs = []tab{{"/errors", "Failed"}, {"/deferred", "Deferred"}, {"/schedules", "Schedules"}, {"/services", "Services"}, {"/topology", "Topology"}, {"/doctor", "Doctor"}, {"/actions", "Actions"}, {"/log", "Log"}}

// view is what a template gets.
type view struct {
	Title string
	Tab   string // the part that it belongs to; default: by the address
	Fault string // what was wrong with a form
	Body  any

	Stranger bool // somebody who may not see anything
	ReadOnly bool
	Archive  bool
	Broker   string
	Queue    string
	Form     string // the token of forms
	Tabs     []tab
	Active   *run // an action under way
}

// pages are the templates by name. Each is laid out by layout.html.
var pages = func() map[string]*template.Template {
	functions := template.FuncMap{
		"add":  func(first, n int) int { return first + n - 1 }, // the last of n
		"text": visible.Text, "word": visible.Word, "count": count, "ago": ago,
		"quantiles": services.Quantiles, "limits": services.Limits, "short": services.Short,
		"stamp": func(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") },
	}
	all := map[string]*template.Template{}
	for _, name := range []string{"groups", "list", "message", "edit", "confirm", "actions", "progress", "deferred", "waiting", "recall", "schedules", "services", "order", "topology", "doctor", "log", "fault", "refused"} {
		all[name] = template.Must(template.New("layout.html").Funcs(functions).ParseFS(assets, "assets/layout.html", "assets/parts.html", "assets/"+name+".html"))
	}
	return all
}()

// write answers with a page.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	if !v.Stranger {
		v.ReadOnly, v.Archive, v.Broker, v.Form = s.cfg.ReadOnly, s.cfg.Archive != "", s.cfg.Broker, s.gate.form
		v.Queue = s.cfg.Errors.Name
		v.Active = s.active()
		if v.Tab == "" {
			v.Tab = part(r.URL.Path)
		}
		for _, t := range tabs {
			if t.Path != "/actions" || !s.cfg.ReadOnly {
				v.Tabs = append(v.Tabs, t)
			}
		}
	}
	var buf bytes.Buffer
	if err := pages[name].Execute(&buf, v); err != nil {
		http.Error(w, "the page cannot be written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = buf.WriteTo(w) // whoever asked may have gone
}

// part is the tab that an address belongs to.
func part(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if first == "looks" {
		first = "errors"
	}
	return "/" + first
}

// fault says what is wrong, and what to do.
func (s *Server) fault(w http.ResponseWriter, r *http.Request, status int, title, advice string) {
	s.write(w, r, status, "fault", view{Title: title, Body: advice})
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
