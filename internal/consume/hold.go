package consume

// Hold leaves the delivery as it is when Handle has returned: neither acknowledged nor given
// back. It then calls held: again has a worker handle the delivery anew, and lives says whether
// it can still be acknowledged. Hold returns false where the order of the queue is not promised:
// there a change of the prefetch cancels the consumer and leaves its channel open, and the
// delivery would be stuck. One that is acknowledged already cannot be held either.
func (d *Delivery) Hold(held func(again func(), lives func() bool)) bool {
	if d.early.Load() || d.tenure == nil && (d.feed == nil || d.feed.again == nil) {
		return false
	}
	d.held = held
	return true
}

// leave ends the work of a worker on the delivery.
func (d *Delivery) leave(returned bool) {
	if d.held == nil && d.Reads() {
		d.undone(returned)
		return
	}
	if d.held == nil || !d.ended.CompareAndSwap(false, true) {
		d.GiveBack() // unless it is acknowledged
		return
	}
	d.held(d.again, d.Connected)
}

// again is called once at most. The channel has room for every delivery that the consumer may
// hold, so it never blocks.
func (d *Delivery) again() {
	if d.tenure != nil {
		d.tenure.resume(d)
		return
	}
	select {
	case d.feed.again <- d:
	default: // not reached
	}
}
