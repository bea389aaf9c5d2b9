package outbox

// NextID and Conflict are for tests.
func (o *Outbox) NextID(n int) int64 { return o.nextID(n) }

func (d Dialect) Conflict(err error) bool { return d.conflict(err) }
