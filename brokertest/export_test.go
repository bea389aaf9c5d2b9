package brokertest

import "context"

// LooksUntilQuiet is WaitQuiet that returns how often it had to look at all queues.
func (b *Broker) LooksUntilQuiet(ctx context.Context) (int, error) {
	w := &quietWait{broker: b}
	err := b.waitQuiet(ctx, w)
	return w.looks, err
}
