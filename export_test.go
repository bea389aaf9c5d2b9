package harebus

import (
	"context"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
)

// What the tests of package harebus_test need of the inside.
const (
	MaxHeaderFrame  = session.MaxFrame - headerRoom
	MaxEntries      = header.MaxEntries
	MaxErrorDetails = header.MaxErrorDetails
)

// The functions are pure.
var (
	ParseTime    = field.ParseTime
	ParseCount   = field.ParseCount
	ErrorDetails = header.ErrorDetails
	DerivedID    = messageid.Derive
)

// Format is how a time is written.
func (f TimeFormat) Format(t time.Time) string {
	return newDialect(&PayloadConfig{TimeFormat: f}).Time(t)
}

// ReadMessage reads a delivery as a setup with the default prefix does.
func ReadMessage(in *amqp.Delivery) (*Message, error) {
	s, err := plainReader()
	if err != nil {
		return nil, err
	}
	return readMessage(s.peers, s.routing.Topic, "queue", in)
}

var plainReader = sync.OnceValues(func() (*Setup, error) { return New(Config{Queue: "queue"}) })

// headerRoom is what Fit leaves for the broker.
const headerRoom = 8 << 10

// Fit makes headers fit into the frames of a broker as it is installed.
func Fit(headers amqp.Table) { FitInto(session.MaxFrame, headerRoom, headers) }

// FitInto makes headers fit into a frame and leaves room in it.
func FitInto(frameMax, room int, headers amqp.Table) {
	d := newDialect(&PayloadConfig{HeaderPrefix: defaultHeaderPrefix})
	d.Fit(&amqp.Publishing{Headers: headers}, frameMax, room)
}

// HeaderFrame is the length of the frame that headers need.
func HeaderFrame(headers amqp.Table) int {
	return publish.HeaderFrame(&amqp.Publishing{Headers: headers})
}

// Decide is what a retry policy says about an error.
func (r RetryConfig) Decide(m *Message, err error) Decision {
	r = r.withDefaults(defaultRetry())
	return r.decide(m, failed(context.Background(), err))
}

// UnderClient has the AMQP client of every later connection write to what wrap makes of it.
func (s *Setup) UnderClient(wrap func(net.Conn) net.Conn) { s.dialer.UnderClient = wrap }

// Waiting is how many requests wait for their replies.
func (s *Setup) Waiting() int {
	eng, err := s.engine()
	if err != nil {
		return 0
	}
	return eng.Replies.Waiting()
}
