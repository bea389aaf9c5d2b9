package integration_test

import (
	"path/filepath"
	"testing"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestNeighbours: a service asks and answers, fails and publishes together with a plain client that plays the peer, with messages as MassTransit and Wolverine
// have written them, byte for byte.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	for name, script := range map[string]dialecttest.Script{"masstransit": dialecttest.MassTransit(), "wolverine": dialecttest.Wolverine()} {
		t.Run(name, func(t *testing.T) {
			vhost := map[string]string{"masstransit": "shop", "wolverine": "wolves"}[name] // the addresses of the goldens are in shop
			p.ctl("add_vhost", vhost)
			p.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
			dialecttest.Talk(t, dialecttest.Place{URL: withVhost(t, p.url, vhost), Goldens: filepath.Join("..", "dialect", name, "testdata")}, script)
		})
	}
}
