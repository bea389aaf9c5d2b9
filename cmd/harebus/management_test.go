package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/harebus/harebus/brokertest"
)

// managementOf serves what the management plugin tells about a broker in process. (What the plugin answers is tested
// with RabbitMQ.)
func managementOf(t *testing.T, b *brokertest.Broker) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := []map[string]any{}
		if r.URL.Path == "/api/nodes" {
			_ = json.NewEncoder(w).Encode(all) // the client says what is missing
			return
		}
		if strings.HasPrefix(r.URL.Path, "/api/queues/") {
			for _, q := range b.Queues() {
				all = append(all, map[string]any{"name": q.Name, "messages_unacknowledged": q.Unacked, "messages_dlx": q.DeadLettering})
			}
			_ = json.NewEncoder(w).Encode(all) // the client says what is missing
			return
		}
		for _, one := range b.Bindings() {
			all = append(all, map[string]any{
				"source": one.Source, "destination": one.Destination, "destination_type": one.DestinationType, "routing_key": one.RoutingKey, "arguments": one.Arguments,
			})
		}
		_ = json.NewEncoder(w).Encode(all)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
