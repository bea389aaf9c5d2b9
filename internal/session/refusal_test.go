package session_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	broker := func(code int, reason string) error { return &amqp.Error{Code: code, Reason: reason, Server: true} }
	gone := broker(amqp.NotFound, "NOT_FOUND - no queue 'q' in vhost '/'")
	down := broker(amqp.NotFound, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor")
	away := broker(amqp.NotFound, "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible")
	slow := broker(amqp.NotFound, "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout")
	for name, test := range map[string]struct {
		err                    error
		permanent, unreachable bool
	}{
		"nothing":               {nil, false, false},
		"end":                   {io.EOF, false, false},
		"credentials":           {amqp.ErrCredentials, true, false},
		"mechanism":             {fmt.Errorf("connect: %w", amqp.ErrSASL), true, false},
		"access":                {broker(amqp.AccessRefused, "ACCESS_REFUSED"), true, false},
		"wrapped":               {fmt.Errorf("declare: %w", broker(amqp.PreconditionFailed, "inequivalent arg")), true, false},
		"of the client":         {&amqp.Error{Code: amqp.AccessRefused}, false, false},
		"shutdown":              {broker(amqp.ConnectionForced, "CONNECTION_FORCED - broker forced connection closure"), false, false},
		"unknown virtual host":  {broker(amqp.NotAllowed, "NOT_ALLOWED - vhost x not found"), true, false},
		"too many connections":  {broker(amqp.NotAllowed, "NOT_ALLOWED - connection refused: node connection limit (10) is reached"), false, false},
		"no queue":              {gone, true, false},
		"queue restarts":        {down, false, true},
		"node down":             {fmt.Errorf("consume: %w", away), false, true},
		"queue does not answer": {slow, false, true},
		"several out of reach":  {errors.Join(down, away), false, true},
		"one is missing":        {errors.Join(down, gone), true, false},
		"certificate":           {fmt.Errorf("connect: %w", &tls.CertificateVerificationError{Err: io.EOF}), true, false},
		"not TLS":               {errors.Join(tls.RecordHeaderError{}, tls.RecordHeaderError{}), true, false},
		"not TLS at one of two": {errors.Join(tls.RecordHeaderError{}, io.EOF), false, false},
	} {
		if got := session.Permanent(test.err); got != test.permanent {
			t.Errorf("%s: permanent %v", name, got)
		}
		if got := session.Unreachable(test.err); got != test.unreachable {
			t.Errorf("%s: unreachable %v", name, got)
		}
	}
}
