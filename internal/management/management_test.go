package management_test

import (
	"net/http"
	"net/http/httptest"
	"reflect"
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

// An integer of an argument stays one, also one that no float64 holds; a message count that is not told is not 0.
func TestNumbers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := `[{"source":"x","destination":"q","destination_type":"queue","routing_key":"","arguments":{"a":9007199254740993,"b":[1,0.5],"c":{"d":2}}}]`
		if strings.HasPrefix(r.URL.Path, "/api/queues") {
			answer = `[{"name":"new"},{"name":"idle","messages_unacknowledged":0,"messages_dlx":3}]`
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	c, err := management.New(server.URL, "u", "p", "/")
	if err != nil {
		t.Fatal(err)
	}
	bindings, err := c.Bindings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": int64(9007199254740993), "b": []any{int64(1), 0.5}, "c": map[string]any{"d": int64(2)}}
	if len(bindings) != 1 || !reflect.DeepEqual(bindings[0].Arguments, want) {
		t.Errorf("the bindings are %#v", bindings)
	}
	queues, err := c.Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if queues["new"].Unacknowledged != nil || *queues["idle"].Unacknowledged != 0 || *queues["idle"].DeadLetters != 3 {
		t.Errorf("the queues are %+v", queues)
	}
}
