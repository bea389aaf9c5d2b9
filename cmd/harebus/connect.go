package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus/internal/access"
)

const defaultURL = "amqp://guest:guest@127.0.0.1:5672/"

// connection is what the flags say about the broker.
type connection struct {
	urls                               urlsFlag
	user, passwordFile                 string
	authority, certificate, privateKey string
	serverName                         string
	external                           bool
}

// connectionFlags adds the flags. The default of -url is not shown as a value:
// AMQP_URL may hold a password.
func connectionFlags(flags *flag.FlagSet) *connection {
	c := &connection{}
	flags.Var(&c.urls, "url", "`address` of the broker, amqp://user:password@host:port/vhost; several, with commas or repeated, are the nodes of a cluster (default AMQP_URL, else "+defaultURL+")")
	flags.StringVar(&c.user, "user", "", "`name` to log in with, instead of that in the address")
	flags.StringVar(&c.passwordFile, "password-file", "", "`file` that has the password in its first line; - is stdin. Everybody on this machine can read a command line, so a password belongs in there, in AMQP_PASSWORD or in AMQP_URL, and not in -url")
	flags.StringVar(&c.authority, "cacert", "", "`file` of the authorities, in PEM, that sign the broker's certificate (default: the system's)")
	flags.StringVar(&c.certificate, "cert", "", "`file` of the client certificate, in PEM")
	flags.StringVar(&c.privateKey, "key", "", "`file` of its private key, in PEM")
	flags.StringVar(&c.serverName, "servername", "", "`name` that the broker's certificate has to have (default: the host of the address)")
	flags.BoolVar(&c.external, "external", false, "log in with the client certificate (SASL EXTERNAL)")
	return c
}

// urlsFlag collects -url.
type urlsFlag []string

func (u *urlsFlag) String() string { return "" } // it may hold a password

// Set adds one address or several.
func (u *urlsFlag) Set(text string) error {
	*u = append(*u, addresses(text)...)
	return nil
}

var betweenAddresses = regexp.MustCompile(`,\s*(amqps?://)`)

// addresses takes a list apart. A comma inside of an address, which may be in a
// password, is none.
func addresses(list string) []string {
	return strings.Split(betweenAddresses.ReplaceAllString(list, "\n$1"), "\n")
}

// broker is where to connect, and how. An error is about the flags.
func (c *connection) broker(std stdio) (access.Broker, error) {
	config, err := c.tls()
	if err != nil {
		return access.Broker{}, err
	}
	urls := []string(c.urls)
	if len(urls) == 0 && os.Getenv("AMQP_URL") != "" {
		urls = addresses(os.Getenv("AMQP_URL"))
	}
	if len(urls) == 0 {
		urls = []string{defaultURL}
	}
	password, replace, err := c.password(std)
	if err != nil {
		return access.Broker{}, err
	}
	for i, address := range urls {
		if urls[i], err = c.login(address, password, replace); err != nil {
			return access.Broker{}, err
		}
		if config != nil && !strings.HasPrefix(address, "amqps:") {
			return access.Broker{}, errors.New("-cacert, -cert, -key and -servername are for addresses that begin with amqps://")
		}
	}
	version, _ := versions()
	return access.Broker{
		URLs: urls, TLS: config, ExternalAuth: c.external, Version: version, Log: newLogger(std.err, zapcore.WarnLevel),
	}, nil
}

// maxPassword is more than any broker takes.
const maxPassword = 4 << 10

// password is the one outside of the address. One from a file replaces those of the
// addresses, one from the environment is for addresses without.
func (c *connection) password(std stdio) (password string, replace bool, err error) {
	if c.passwordFile == "" {
		return os.Getenv("AMQP_PASSWORD"), false, nil
	}
	in := std.in
	if c.passwordFile != "-" {
		file, err := os.Open(c.passwordFile)
		if err != nil {
			return "", false, fmt.Errorf("-password-file: %w", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, maxPassword))
	if err != nil {
		return "", false, fmt.Errorf("-password-file: %w", err)
	}
	password, _, _ = strings.Cut(string(content), "\n")
	if password = strings.TrimSuffix(password, "\r"); password == "" {
		return "", false, errors.New("-password-file: the first line is empty")
	}
	return password, true, nil
}

// login puts the user and the password into an address.
func (c *connection) login(address, password string, replace bool) (string, error) {
	if c.user == "" && password == "" {
		return address, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" { // the parser's text quotes the address
		return "", errors.New("an address is not of the form amqp://user:password@host:port/vhost")
	}
	name := u.User.Username()
	if c.user != "" {
		name = c.user
	}
	if name == "" {
		name = "guest"
	}
	if own, ok := u.User.Password(); ok && !replace {
		password = own
	}
	u.User = url.UserPassword(name, password)
	return u.String(), nil
}

// tls is what the flags say about TLS, or nil if they say nothing.
func (c *connection) tls() (*tls.Config, error) {
	if c.authority+c.certificate+c.privateKey+c.serverName == "" {
		if c.external {
			return nil, errors.New("-external needs the client certificate: -cert and -key")
		}
		return nil, nil //nolint:nilnil // the default is nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if c.authority != "" {
		pem, err := os.ReadFile(c.authority)
		if err != nil {
			return nil, fmt.Errorf("-cacert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-cacert: %s has no certificate in PEM", c.authority)
		}
	}
	if (c.certificate == "") != (c.privateKey == "") {
		return nil, errors.New("-cert and -key belong together")
	}
	if c.certificate != "" {
		pair, err := tls.LoadX509KeyPair(c.certificate, c.privateKey)
		if err != nil {
			return nil, fmt.Errorf("-cert and -key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// newLogger logs to w, one line an entry.
func newLogger(w io.Writer, level zapcore.Level) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeLevel = zapcore.CapitalLevelEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(cfg), zapcore.Lock(zapcore.AddSync(w)), level))
}

// lockedWriter makes a writer safe for concurrent use.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
