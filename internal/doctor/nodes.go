package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/harebus/harebus/internal/management"
)

// nodes looks at the nodes of the broker: whether they run and see each other, and how near they are to the end of their file
// descriptors, memory and disk.
func (e *examination) nodes(ctx context.Context) error {
	if e.API == nil {
		e.unchecked("nodes that are down, and their file descriptors, memory and disk: give -api")
		return nil
	}
	nodes, err := e.API.Nodes(ctx)
	if err != nil {
		e.unchecked("the nodes of the broker: %v", err)
		return nil
	}
	for i := range nodes {
		e.node(&nodes[i])
	}
	return nil
}

func (e *examination) node(n *management.Node) {
	found := len(e.report.Findings)
	if !n.Running {
		e.fault(fmt.Sprintf("node %q does not run", n.Name), "classic queues that it has are away, and quorum queues go on only while most of their nodes run", "start it")
		return
	}
	if len(n.Partitions) > 0 {
		e.fault(fmt.Sprintf("node %q does not see %s", n.Name, strings.Join(n.Partitions, ", ")), "on both sides of a partition are declarations and messages of which the other side does not know",
			"mend the network, then restart the nodes of the smaller side; cluster_partition_handling = pause_minority in rabbitmq.conf")
	}
	near := func(what string, used, most management.Number, why, fix string) {
		const tenths, soon = 10, 8
		if most > 0 && used >= most/tenths*soon {
			e.warn(fmt.Sprintf("node %q uses %d of %d %s", n.Name, used, most, what), why, fix)
		}
	}
	near("file descriptors", n.FilesUsed, n.FilesMost, "at the limit it takes no further connections, and its queues fail", "raise the limit of the process: LimitNOFILE of its systemd unit, or ulimit -n; then restart it")
	near("sockets", n.SocketsUsed, n.SocketsMost, "at the limit it takes no further connections", "raise the limit of file descriptors of the process, of which sockets are a part; then restart it")
	near("bytes of memory before its alarm", n.MemoryUsed, n.MemoryMost, "in a memory alarm it takes no messages", "give the broker more memory, or set vm_memory_high_watermark higher")
	if n.DiskLeast > 0 && n.DiskFree > 0 && n.DiskFree < 2*n.DiskLeast {
		e.warn(fmt.Sprintf("node %q has %d bytes of disk left; its alarm is at %d", n.Name, n.DiskFree, n.DiskLeast), "in a disk alarm it takes no messages", "free space on its disk")
	}
	if len(e.report.Findings) == found {
		e.passed()
	}
}
