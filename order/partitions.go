package order

import (
	"fmt"
	"hash/fnv"

	"github.com/harebus/harebus/topology"
)

// mostPartitions is the largest number of partitions.
const mostPartitions = 64

// Divided says whether the queue is divided into partitions. One partition is the queue itself.
func (c *Config) Divided() bool { return c != nil && c.Partitions > 1 }

// PartitionQueues are the names of the partitions of a queue; nil unless it is divided.
func (c *Config) PartitionQueues(queue string) (names []string) {
	if !c.Divided() || queue == "" {
		return nil
	}
	for i := range min(c.Partitions, mostPartitions) { // more are a fault
		names = append(names, PartitionQueue(queue, i))
	}
	return names
}

// PartitionQueue is the name of a partition, which are counted from 0.
func PartitionQueue(queue string, partition int) string {
	return fmt.Sprintf("%s.%d", queue, partition)
}

// MembersQueue is the name of the queue in which the broker counts the instances that share a divided queue.
func MembersQueue(queue string) string { return queue + ".members" }

// Partition is the partition of a key, below n. It never changes: another one would be beside messages of the key.
func Partition(key string, n int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))       // never fails
	return int(h.Sum64() % uint64(n)) //nolint:gosec // n is a small positive number
}

// OfPartition is the config of a partition: that of an ordered queue that is not divided.
func (c *Config) OfPartition() *Config {
	one := *c
	one.Partitions = 0
	return &one
}

// members is the queue that counts the instances. It has no messages. Its limit is the number of partitions, so that the broker refuses an
// instance that wants another one.
func (c *Config) members(queue string) topology.Topology {
	if !c.Divided() {
		return topology.Topology{}
	}
	return topology.Topology{Queues: []topology.Queue{{
		Name: MembersQueue(queue), Type: topology.Quorum,
		Arguments: map[string]any{"x-max-length": int64(c.Partitions), "x-delivery-limit": topology.LookLimit, "x-overflow": "reject-publish"},
	}}}
}
