package integration_test

import (
	"path/filepath"
	"testing"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestNeighbours: a service asks and answers, fails and publishes together with a plain client that plays the peer, with messages as the peers have written
// them, and with exchanges, queues and bindings as they make them, before the service does and after. The broker refuses neither.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	for name, script := range dialecttest.Scripts() {
		t.Run(name, func(t *testing.T) {
			vhost := name
			if name == "masstransit" {
				vhost = "shop" // the addresses of the goldens are there
			}
			p.ctl("add_vhost", vhost)
			p.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
			dialecttest.Talk(t, dialecttest.Place{URL: withVhost(t, p.url, vhost), Goldens: filepath.Join("..", "dialect", name, "testdata")}, script)
		})
	}
}
