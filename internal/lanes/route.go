package lanes

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Route is how the router of a divided queue has sent a message into its partition: Fence is the fencing number of the router, and
// Number rises with each message that it sends. Again says that it did not get the message for the first time: another router may have sent it before.
type Route struct {
	Fence, Number int64
	Again         bool
}

// resent marks a route with Again.
const resent = " again"

// Write puts it into the headers of a copy.
func (r Route) Write(n *Names, headers amqp.Table) {
	text := fmt.Sprintf("%d %d", r.Fence, r.Number)
	if r.Again {
		text += resent
	}
	headers[n.Route] = text
}

// TakeRoute reads what Write has written, and removes it: it is not for handlers. What is no route is none.
func TakeRoute(n *Names, headers amqp.Table) (r Route) {
	value, found := headers[n.Route]
	if !found { // as in each message of an ordered queue that is not divided
		return Route{}
	}
	delete(headers, n.Route)
	text, _ := value.(string)
	text, r.Again = strings.CutSuffix(text, resent)
	fence, number, _ := strings.Cut(text, " ")
	var err, ill error
	r.Fence, err = strconv.ParseInt(fence, 10, 64)
	r.Number, ill = strconv.ParseInt(number, 10, 64)
	if err != nil || ill != nil || !within(r.Fence, 1) || !within(r.Number, 1) {
		return Route{}
	}
	return r
}

func (r Route) compare(other Route) int {
	return cmp.Or(cmp.Compare(r.Fence, other.Fence), cmp.Compare(r.Number, other.Number))
}

// routed are the routes of the messages that came last. A router sends a copy again when it does not know what has become of it, and one that
// has lost its queue may still have a copy on its way while its successor sends the same message, and those behind it. When that copy comes at
// last it is behind them. A message that an operator has put into the queue anew has a newer route, and is none of these.
type routed struct {
	latest map[string]Route // by the ids of the messages
	oldest []string
}

// late says whether the same copy of the message, or a newer one, has come before.
func (r *routed) late(m *Message) bool {
	const most = 4096
	if m.Route == (Route{}) {
		return false
	}
	last, known := r.latest[m.ID]
	if known && m.Route.compare(last) <= 0 {
		return true
	}
	if r.latest == nil {
		r.latest = map[string]Route{}
	}
	r.latest[m.ID] = m.Route
	if !known {
		r.oldest = append(r.oldest, m.ID)
	}
	if len(r.oldest) > most {
		delete(r.latest, r.oldest[0])
		r.oldest = r.oldest[1:]
	}
	return false
}
