package session

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/foreign"
)

// authentication is how to log in.
func (d *Dialer) authentication(ctx context.Context, uri amqp.URI) ([]amqp.Authentication, error) {
	switch {
	case d.cfg.ExternalAuth:
		return []amqp.Authentication{&amqp.ExternalAuth{}}, nil
	case d.cfg.Credentials != nil:
		login, err := foreign.Apart(ctx, func() (*amqp.PlainAuth, error) {
			username, password, err := d.cfg.Credentials(ctx)
			return &amqp.PlainAuth{Username: username, Password: password}, err
		})
		if err != nil {
			return nil, fmt.Errorf("fetch credentials: %w", err)
		}
		return []amqp.Authentication{login}, nil
	case d.cfg.Username != "":
		return []amqp.Authentication{&amqp.PlainAuth{Username: d.cfg.Username, Password: d.cfg.Password}}, nil
	default:
		return []amqp.Authentication{uri.PlainAuth()}, nil
	}
}

// loginFault adds to the error of a refused login what to do.
func loginFault(err error) error {
	var broker *amqp.Error
	switch {
	case errors.Is(err, amqp.ErrSASL):
		return fmt.Errorf("%w: the broker offers neither of PLAIN and EXTERNAL that was asked for; see its auth_mechanisms and Config.Connect.ExternalAuth", err)
	case errors.Is(err, amqp.ErrCredentials), errors.As(err, &broker) && broker.Code == amqp.AccessRefused:
		return fmt.Errorf("%w; check the user name and password (guest may log in from the broker's own host only)", err)
	default:
		return err
	}
}
