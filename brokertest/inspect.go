package brokertest

func (b *Broker) wakeQuiet() {
	for _, w := range b.quiet {
		close(w)
	}
	b.quiet = nil
}
