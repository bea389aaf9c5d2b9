package brokertest

type verdict int

const (
	verdictPass verdict = iota
	verdictGone
	verdictNack
	verdictReturn
)

type Fault struct{}
type heldFrame struct{}

func (c *connection) intercept(m method, channel uint16) bool { return false }
func (c *connection) interceptAfter()                        {}
func (c *connection) interceptPublish(m *basicPublish, h *contentHeader, channel uint16) verdict {
	return verdictPass
}
func (c *connection) outgoing(m method, channel uint16, p []byte) { c.push(p) }
