package page_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/harebus/harebus/cmd/harebus/internal/page"
)

// paths are addresses of all parts.
var paths = []string{"/errors", "/looks/x", "/looks/x/messages", "/looks/x/messages/y", "/looks/x/act?do=retry", "/deferred", "/deferred/list", "/topology", "/doctor", "/actions", "/actions/x", "/log", "/", "/nonsense"}

// TestStrangers: without the cookie nothing is shown, and no request reaches the broker.
func TestStrangers(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "secret reason", nil)
		before := len(x.broker.Connections())
		own := x.cookie
		for name, cookie := range map[string]*http.Cookie{
			"none": nil, "wrong": {Name: own.Name, Value: "x"}, "empty": {Name: own.Name}, "other-name": {Name: "session", Value: own.Value},
		} {
			x.cookie = cookie
			for _, path := range paths {
				a := x.do(x.request(http.MethodGet, path, nil))
				x.expect(a, http.StatusUnauthorized, "Open the address")
				if strings.Contains(a.html, "guest@broker") || strings.Contains(a.html, "secret reason") {
					x.Errorf("%s, %s: %s", name, path, a.html)
				}
			}
			x.expect(x.do(x.request(http.MethodPost, "/looks/x/act", url.Values{})), http.StatusUnauthorized)
		}
		if n := len(x.broker.Connections()); n != before {
			x.Errorf("%d connections, %d before", n, before)
		}
	})
}

// TestOneTimeAddress: it works once, and not at all with another token.
func TestOneTimeAddress(t *testing.T) {
	bubble(t, nil, func(x *bench) { // the bench has used it
		own := x.cookie
		if !own.HttpOnly || own.SameSite != http.SameSiteStrictMode || own.Path != "/" || len(own.Value) < 40 {
			x.Errorf("the cookie is %v", own)
		}
		address := strings.TrimPrefix(x.site.Address(), "http://"+address)
		x.cookie = nil
		for _, path := range []string{address, "/login", "/login?token=", "/login?token=x"} {
			a := x.do(x.request(http.MethodGet, path, nil))
			x.expect(a, http.StatusUnauthorized, "it works once")
			if len(a.Cookies()) > 0 {
				x.Errorf("%s gives %v", path, a.Cookies())
			}
		}
		x.cookie = own
		x.expect(x.get(address), http.StatusOK) // opened again by who has the cookie
	})
}

// TestHostNames: a name that somebody points at this machine (DNS rebinding) is refused, with and without the cookie.
func TestHostNames(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		for host, want := range map[string]int{
			address: http.StatusOK, "localhost:4711": http.StatusOK, "evil.example:4711": http.StatusMisdirectedRequest, "127.0.0.1": http.StatusMisdirectedRequest,
			"127.0.0.1:80": http.StatusMisdirectedRequest, "127.0.0.1.evil.example:4711": http.StatusMisdirectedRequest, "": http.StatusMisdirectedRequest,
		} {
			r := x.request(http.MethodGet, "/topology", nil)
			r.Host = host
			if a := x.do(r); a.StatusCode != want {
				x.Errorf("host %q: status %d, want %d", host, a.StatusCode, want)
			}
		}
	})
}

// TestOtherSites: a form that another site sends is refused, whatever it guesses, and nothing is done.
func TestOtherSites(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		path := x.link(x.get("/errors"), "Retry")
		x.get(path)
		good := url.Values{"form": {x.form}, "count": {"1"}, "rate": {"100"}}
		for name, change := range map[string]func(*http.Request){
			"no-token": func(r *http.Request) { r.Body = http.NoBody },
			"wrong-token": func(r *http.Request) {
				*r = *x.request(http.MethodPost, path, url.Values{"form": {"x"}, "count": {"1"}, "rate": {"1"}})
			},
			"token-in-path": func(r *http.Request) { r.URL.RawQuery += "&form=" + x.form; r.Body = http.NoBody },
			"cross-site":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
			"port-beside":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
			"old-browser":   func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "http://evil.example") },
			"old-port":      func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "http://127.0.0.1:1") },
			"opaque":        func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") },
			"unsaid":        func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Del("Origin") },
			"as-text":       func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		} {
			r := x.request(http.MethodPost, path, good)
			change(r)
			if a := x.do(r); a.StatusCode != http.StatusForbidden {
				x.Errorf("%s: status %d: %s", name, a.StatusCode, a.text())
			}
		}
		big := url.Values{"form": {x.form}, "count": {strings.Repeat("1", 2<<20)}}
		x.expect(x.do(x.request(http.MethodPost, path, big)), http.StatusRequestEntityTooLarge)
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
			if a := x.do(x.request(method, path, good)); a.StatusCode == http.StatusOK || a.StatusCode == http.StatusSeeOther {
				x.Errorf("%s: status %d", method, a.StatusCode)
			}
		}
		x.expect(x.get(path), http.StatusOK, "Type 1 to confirm") // a GET asks, and does nothing
		x.has("error", "a")
		x.has("orders", "")
	})
}

// TestForeignLooks: another site, or a page on another port, cannot have an address loaded, not even for a look. Who opens an
// address out of a terminal can.
func TestForeignLooks(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		before := len(x.broker.Connections())
		for site, want := range map[string]int{"cross-site": http.StatusForbidden, "same-site": http.StatusForbidden, "same-origin": http.StatusOK, "none": http.StatusOK, "": http.StatusOK} {
			for _, path := range []string{"/topology", "/style.css", strings.TrimPrefix(x.site.Address(), "http://"+address)} {
				r := x.request(http.MethodGet, path, nil)
				r.Header.Set("Sec-Fetch-Site", site)
				a := x.do(r)
				if a.StatusCode != want && (want != http.StatusOK || a.StatusCode != http.StatusSeeOther) {
					x.Errorf("%q, %s: status %d", site, path, a.StatusCode)
				}
			}
			r := x.request(http.MethodGet, "/errors", nil)
			r.Header.Set("Sec-Fetch-Site", site)
			if want != http.StatusOK {
				x.expect(x.do(r), want, "Another site, or another port of this machine")
			}
		}
		if n := len(x.broker.Connections()); n != before {
			x.Errorf("%d connections, %d before", n, before)
		}
		if m := x.broker.Messages("error"); m[0].Redelivered {
			x.Error("a look was taken")
		}
	})
}

// TestOneTimeAddressFromElsewhere: a link on another site does not use up the one-time address.
func TestOneTimeAddressFromElsewhere(t *testing.T) {
	t.Parallel()
	site := page.New(page.Config{}, address)
	defer site.Close()
	for _, test := range []struct {
		from string
		want int
	}{{"cross-site", http.StatusForbidden}, {"none", http.StatusSeeOther}} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, site.Address(), nil)
		r.Header.Set("Sec-Fetch-Site", test.from)
		w := httptest.NewRecorder()
		if site.ServeHTTP(w, r); w.Code != test.want {
			t.Errorf("%s: status %d", test.from, w.Code)
		}
	}
}

// TestPort80: browsers leave the port out.
func TestPort80(t *testing.T) {
	t.Parallel()
	for address, hosts := range map[string][]string{"127.0.0.1:80": {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"}, "[::1]:80": {"[::1]", "localhost"}} {
		site := page.New(page.Config{}, address)
		defer site.Close()
		for _, host := range append(hosts, "evil.example") {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/style.css", nil)
			w := httptest.NewRecorder()
			if site.ServeHTTP(w, r); (w.Code == http.StatusOK) != (host != "evil.example") {
				t.Errorf("%s, host %q: status %d", address, host, w.Code)
			}
		}
	}
}

// TestHeaders: no answer is stored, framed, or may load anything from elsewhere.
func TestHeaders(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		for _, path := range append([]string{"/style.css", "/page.js", "/icon.svg", "/login"}, paths...) {
			h := x.do(x.request(http.MethodGet, path, nil)).Header
			csp := h.Get("Content-Security-Policy")
			if !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
				x.Errorf("%s: %s", path, csp)
			}
			if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" {
				x.Errorf("%s: %v", path, h)
			}
		}
	})
}

// TestReadOnly: there are no actions, neither on the pages nor by their addresses.
func TestReadOnly(t *testing.T) {
	bubble(t, func(cfg *page.Config) { cfg.ReadOnly = true }, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		groups := x.get("/errors")
		x.expect(groups, http.StatusOK, "read-only", "boom")
		list := x.get(x.link(groups, "1"))
		x.expect(list, http.StatusOK)
		message := x.get("/looks/" + look(groups) + "/messages/" + ids(list)[0])
		x.expect(message, http.StatusOK, "boom")
		for _, a := range []*answer{groups, list, message} {
			if strings.Contains(a.html, "/act") || strings.Contains(a.html, `method="post"`) {
				x.Errorf("an action on %s", a.html)
			}
		}
		path := "/looks/" + look(groups) + "/act"
		x.expect(x.get(path+"?do=retry"), http.StatusNotFound)
		x.expect(x.get("/actions"), http.StatusNotFound)
		if a := x.post(path, url.Values{"do": {"retry"}, "count": {"1"}, "rate": {"1"}}); a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusMethodNotAllowed {
			x.Errorf("status %d", a.StatusCode)
		}
		x.has("error", "a")
	})
}
