package rabbit

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// The broker that this process's tests share. Nobody may break it, so it can be of any kind.
var shared struct {
	once sync.Once
	node *Node
	err  error
}

// Shared is a broker for tests that neither break nor configure it: the first call starts it, all get the same, and
// [Main] closes it. Tests keep apart by the names of their queues. It skips and fails as [Need] does.
func Shared(t testing.TB) *Node {
	t.Helper()
	shared.once.Do(func() {
		// It outlives the test that happens to come first.
		shared.node, shared.err = Start(context.WithoutCancel(t.Context()), Options{})
		if shared.err == nil {
			fmt.Fprintf(os.Stderr, "tests run on RabbitMQ %s (%s)\n", shared.node.Version(), shared.node.Kind())
		}
	})
	SkipWithoutBroker(t, shared.err)
	return shared.node
}

// Main runs a package's tests and then closes what [Shared] started. It belongs in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(rabbit.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if shared.node == nil {
		return code
	}
	if err := shared.node.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}
