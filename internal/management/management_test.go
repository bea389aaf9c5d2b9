package management_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/management"
)

// The request names the virtual host and the user, below the path that the address has. (What the plugin
// answers is tested with RabbitMQ.)
func TestRequest(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://HOST":               "u:p /api/bindings/%2F",
		"http://HOST/":              "u:p /api/bindings/%2F",
		"http://a:b@HOST/rabbit":    "a:b /rabbit/api/bindings/%2F",
		"http://a:%2F@HOST/rabbit/": "a:/ /rabbit/api/bindings/%2F",
	} {
		var got string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			got = user + ":" + password + " " + r.RequestURI
			w.WriteHeader(http.StatusUnauthorized)
		}))
		defer server.Close()
		c, err := management.New(strings.Replace(address, "HOST", server.Listener.Addr().String(), 1), "u", "p", "/")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Bindings(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("the error is %v", err)
		}
		if got != want {
			t.Errorf("%s: asked %q, want %q", address, got, want)
		}
	}
}
