package rabbit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// An Authority is a certificate authority made for one node or cluster. Its key exists in memory only.
type Authority struct {
	certificate *x509.Certificate
	der         []byte
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority that is valid for a day. A second one is what a test uses to show a certificate that
// the node must not trust.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("rabbit: make authority: %w", err)
	}
	template, err := certificateTemplate("harebus test authority", time.Now().Add(24*time.Hour))
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("rabbit: make authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("rabbit: make authority: %w", err)
	}
	return &Authority{certificate: certificate, der: der, key: key}, nil
}

func certificateTemplate(commonName string, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("rabbit: make serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		// Long past, so that a certificate that ended an hour ago still began before it ended.
		NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter:  notAfter,
	}, nil
}

// Pool holds the authority's certificate, for a client that is to trust the node.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Client makes a certificate with which a client is commonName to the node.
func (a *Authority) Client(commonName string, notAfter time.Time) (tls.Certificate, error) {
	template, err := certificateTemplate(commonName, notAfter)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

// ClientConfig is a TLS configuration that trusts the node and, unless commonName is empty, shows a certificate of that
// name.
func (a *Authority) ClientConfig(commonName string) (*tls.Config, error) {
	config := &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if commonName == "" {
		return config, nil
	}
	certificate, err := a.Client(commonName, a.certificate.NotAfter)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{certificate}
	return config, nil
}

// server makes a certificate for localhost and 127.0.0.1.
func (a *Authority) server(notAfter time.Time) (tls.Certificate, error) {
	template, err := certificateTemplate("localhost", notAfter)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.DNSNames = []string{"localhost"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return a.issue(template)
}

func (a *Authority) issue(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("rabbit: issue certificate: %w", err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("rabbit: issue certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// ClientFiles writes what a command line takes into folder, as PEM: the authority's certificate (authority.pem) and a
// client's certificate for commonName (client.pem) with its key (client.key).
func (a *Authority) ClientFiles(folder, commonName string) error {
	client, err := a.Client(commonName, a.certificate.NotAfter)
	if err != nil {
		return err
	}
	return a.writeFiles(folder, "client", client)
}

// writeFiles writes the authority's certificate and that of a server or client, with its key, into folder, as PEM.
func (a *Authority) writeFiles(folder, of string, pair tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return fmt.Errorf("rabbit: write certificates: %w", err)
	}
	write := func(name, kind string, der []byte) error {
		return os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return errors.Join(
		write("authority.pem", "CERTIFICATE", a.der),
		write(of+".pem", "CERTIFICATE", pair.Certificate[0]),
		write(of+".key", "PRIVATE KEY", key),
	)
}
