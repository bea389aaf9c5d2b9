package rabbit_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// dialTLS logs in with a password or, when config shows a certificate, with that.
func dialTLS(node *rabbit.Node, config *tls.Config) (*amqp.Connection, error) {
	c := amqp.Config{TLSClientConfig: config}
	if len(config.Certificates) > 0 {
		c.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	return amqp.DialConfig(node.TLSURL(), c)
}

func clientConfig(t *testing.T, a *rabbit.Authority, commonName string) *tls.Config {
	t.Helper()
	config, err := a.ClientConfig(commonName)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestTLSNode(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{TLS: rabbit.ServerTLS})
	for _, args := range [][]string{{"add_user", "carol", ""}, {"set_permissions", "carol", ".*", ".*", ".*"}} {
		if _, err := node.Ctl(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	works := func(config *tls.Config) {
		t.Helper()
		connection, err := dialTLS(node, config)
		if err != nil {
			t.Error(err)
			return
		}
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	}
	works(clientConfig(t, node.Authority(), ""))
	works(clientConfig(t, node.Authority(), "carol"))
	if _, err := dialTLS(node, clientConfig(t, node.Authority(), "mallory")); !errors.Is(err, amqp.ErrCredentials) {
		t.Errorf("a certificate whose name is no user: %v", err)
	}
	other, err := rabbit.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	var untrusted x509.UnknownAuthorityError
	if _, err := dialTLS(node, clientConfig(t, other, "")); !errors.As(err, &untrusted) {
		t.Errorf("a client that trusts somebody else: %v", err)
	}

	if err := node.ReplaceCertificate(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	var invalid x509.CertificateInvalidError
	if _, err := dialTLS(node, clientConfig(t, node.Authority(), "")); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("after the certificate ran out: %v", err)
	}
	if err := node.ReplaceCertificate(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	works(clientConfig(t, node.Authority(), "carol"))
}

func TestTLSMutual(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{TLS: rabbit.MutualTLS})
	if _, err := node.Ctl(t.Context(), "add_user", "carol", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Ctl(t.Context(), "set_permissions", "carol", ".*", ".*", ".*"); err != nil {
		t.Fatal(err)
	}
	if _, err := dialTLS(node, clientConfig(t, node.Authority(), "")); err == nil {
		t.Error("a client without a certificate was let in")
	}
	other, err := rabbit.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Client("carol", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	config := clientConfig(t, node.Authority(), "")
	config.Certificates = []tls.Certificate{forged}
	if _, err := dialTLS(node, config); err == nil {
		t.Error("a certificate of another authority was let in")
	}
	connection, err := dialTLS(node, clientConfig(t, node.Authority(), "carol"))
	if err != nil {
		t.Fatal(err)
	}
	if err := connection.Close(); err != nil {
		t.Error(err)
	}
}
