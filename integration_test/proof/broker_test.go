package proof_test

import (
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// The broker dies by SIGKILL under load and comes back.
func TestBrokerKilled(t *testing.T) {
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			node := private(t, rabbit.Options{})
			r := begin(t, plan{nodes: []*rabbit.Node{node}, queueType: queueType})
			r.try(node.Sync(r.within(patience)))
			r.fault("SIGKILL", func() {
				r.try(node.Kill())
				time.Sleep(time.Second)
				r.try(node.Start(r.within(patience)))
			})
			r.end()
		})
	}
}
