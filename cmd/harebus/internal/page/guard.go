package page

import (
	"crypto/subtle"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

const (
	loginPath  = "/login"
	mostInForm = 1 << 20 // bytes of a form
	mostInEdit = 8 << 20 // of one with a body, of which each character may need three or more
)

// gate decides who may see the page. It serves whoever has come by the one-time address, and
// nobody else: a cookie says who that is, and each form has a token that only the page itself
// can know. Other sites and ports are refused by what browsers say about the origin of a request, and by
// the name in the header Host, which must be an address of the loopback interface.
type gate struct {
	address       string
	hosts         []string
	token         string // of the one-time address
	cookie        string // the name of the cookie, another one for each server on the machine
	session, form string

	used *sync.Once
}

func newGate(address string) gate {
	_, port, _ := net.SplitHostPort(address) // a listener's address has a port
	const shortName = 8
	hosts := []string{address, net.JoinHostPort("localhost", port)}
	if port == "80" { // browsers leave it out
		hosts = append(hosts, strings.TrimSuffix(address, ":80"), "localhost")
	}
	return gate{
		address: address, hosts: hosts,
		token: secret(), cookie: "harebus_" + secret()[:shortName], session: secret(), form: secret(), used: &sync.Once{},
	}
}

// protect lets the operator through to next, and anybody else to refuse.
func (g *gate) protect(next, refuse http.Handler) http.Handler {
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the folder is in the program
	}
	static := http.FileServerFS(files)
	inside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			most := int64(mostInForm)
			if strings.HasSuffix(r.URL.Path, "/edit") {
				most = mostInEdit
			}
			r.Body = http.MaxBytesReader(w, r.Body, most)
			err := r.ParseForm()
			if errors.As(err, new(*http.MaxBytesError)) {
				http.Error(w, "What you have typed is too large for this page; nothing was done. Go back to have it again. For a large body: harebus errors edit -body FILE ID", http.StatusRequestEntityTooLarge)
				return
			}
			if err != nil || !same(r.PostForm.Get("form"), g.form) {
				refuse.ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		switch {
		case !slices.Contains(g.hosts, r.Host):
			http.Error(w, "this page is not for that host name", http.StatusMisdirectedRequest)
		case foreign(r):
			refuse.ServeHTTP(w, r)
		case slices.Contains([]string{"/style.css", "/page.js", "/icon.svg"}, r.URL.Path):
			static.ServeHTTP(w, r)
		case r.URL.Path == loginPath && r.Method == http.MethodGet && g.login(w, r):
		case g.known(r):
			inside.ServeHTTP(w, r)
		default:
			refuse.ServeHTTP(w, r)
		}
	})
}

// foreign says whether a request comes from elsewhere: from another site or port, also to load what
// only has to be loaded to do something, such as a look; or, if it may change something, from what
// does not say that it comes from the page. An address that somebody types in comes from none.
func foreign(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	switch {
	case site == "same-origin":
		return false
	case site != "" && site != "none":
		return true
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return false
	}
	return r.Header.Get("Origin") != "http://"+r.Host
}

// secure sets what browsers have to know: nothing is stored, framed, or loaded from elsewhere.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

// login lets in the first one who has the token.
func (g *gate) login(w http.ResponseWriter, r *http.Request) (done bool) {
	if !same(r.URL.Query().Get("token"), g.token) {
		return false
	}
	g.used.Do(func() {
		//nolint:gosec // the loopback interface has no TLS, so Secure would lose the cookie
		http.SetCookie(w, &http.Cookie{Name: g.cookie, Value: g.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		done = true
	})
	if done || g.known(r) {
		http.Redirect(w, r, "/errors", http.StatusSeeOther)
		return true
	}
	return false
}

// known says whether a request has the cookie.
func (g *gate) known(r *http.Request) bool {
	cookie, err := r.Cookie(g.cookie)
	return err == nil && same(cookie.Value, g.session)
}

// same compares in a time that does not depend on where the texts differ.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// refuse answers who is not let through. It says nothing about the broker.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request) {
	status, why := http.StatusForbidden, "The request did not come from this page, or the page is from an earlier run of harebus ui. Nothing was done."
	switch {
	case foreign(r) && r.Method == http.MethodGet:
		why = "Another site, or another port of this machine, has led here. Type the address in, or copy it. Nothing was done."
	case !s.gate.known(r) && r.URL.Path != loginPath:
		status, why = http.StatusUnauthorized, "Open the address that harebus ui has printed. It works once, in one browser; start harebus ui again for another one."
	case r.URL.Path == loginPath:
		status, why = http.StatusUnauthorized, "This address does not work, or not any more: it works once. Start harebus ui again."
	}
	s.write(w, r, status, "refused", view{Title: "You cannot see this page", Stranger: true, Body: why})
}
