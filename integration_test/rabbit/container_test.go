package rabbit_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// The third way needs a Docker engine and an image, which even a machine that requires brokers may not have: the test
// runs where HAREBUS_RABBITMQ_IMAGE names an image.
func TestContainer(t *testing.T) {
	if os.Getenv("HAREBUS_RABBITMQ_IMAGE") == "" {
		t.Skip("HAREBUS_RABBITMQ_IMAGE names no image; with a Docker engine running, scripts/rabbitmq-image makes one")
	}
	node, err := rabbit.Start(t.Context(), rabbit.Options{Kind: rabbit.KindContainer})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("RabbitMQ %s (%s)", node.Version(), node.Kind())
	if node.Kind() != rabbit.KindContainer || node.Version() == "" {
		t.Errorf("got %s %q", node.Kind(), node.Version())
	}
	_, channel := connect(t, node.URL())
	declareQuorum(t, channel, "in a container")
	publishConfirmed(t.Context(), t, channel, "in a container", "hello")
	if listed, err := node.Ctl(t.Context(), "list_queues", "name"); err != nil || !strings.Contains(listed, "in a container") {
		t.Errorf("list_queues printed %q, error %v", listed, err)
	}
	if _, err := node.Ctl(t.Context(), "set_permissions", "nobody", ".*", ".*", ".*"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a failed command returned %v", err)
	}
	if err := node.Kill(); !errors.Is(err, rabbit.ErrNotPrivate) {
		t.Errorf("Kill on a container: %v", err)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
}
