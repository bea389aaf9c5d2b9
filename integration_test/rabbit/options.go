package rabbit

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// A Kind says where a broker came from.
type Kind string

// The three ways to a broker, in the order in which [Start] tries them.
const (
	KindURL       Kind = "url"       // AMQP_URL names it; it is not ours to break
	KindNode      Kind = "node"      // a private node of an installed rabbitmq-server
	KindContainer Kind = "container" // a container, through testcontainers-go
)

// A TLSMode says whether a private node listens for TLS, beside plain TCP.
type TLSMode int

// The values of [Options.TLS]. In both modes with TLS a client may log in with its certificate (SASL EXTERNAL: the
// user is the certificate's common name, and must have been added).
const (
	NoTLS     TLSMode = iota
	ServerTLS         // a client certificate is verified when one is shown
	MutualTLS         // a client without a certificate is refused
)

const (
	defaultImage   = "rabbitmq:4"
	defaultTimeout = 2 * time.Minute
)

// Options says what broker a test needs. The zero value takes any.
type Options struct {
	// Kind restricts the search to one way. Empty means any, in order; a broker that must be broken, and one with any
	// of the fields below TLS set, is KindNode even then.
	Kind Kind
	// TLS adds a TLS listener with certificates made at run time. Implies KindNode.
	TLS TLSMode
	// Config holds lines that are added to rabbitmq.conf. Implies KindNode.
	Config []string
	// Advanced is the text of advanced.config, for what rabbitmq.conf cannot
	// say. Implies KindNode.
	Advanced string
	// Plugins are enabled on the node. Implies KindNode.
	Plugins []string
	// Root is the folder with the Debian whose rabbitmq-server is used. Defaults to $HAREBUS_RABBITMQ_ROOT, and
	// without that to the machine's own.
	Root string
	// Image is the container's image. Defaults to $HAREBUS_RABBITMQ_IMAGE, and without that to rabbitmq:4.
	Image string
	// Timeout bounds each start. Defaults to 2 minutes.
	Timeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Root == "" {
		o.Root = os.Getenv("HAREBUS_RABBITMQ_ROOT")
	}
	if o.Image == "" {
		o.Image = os.Getenv("HAREBUS_RABBITMQ_IMAGE")
	}
	if o.Image == "" {
		o.Image = defaultImage
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Kind == "" && (o.TLS != NoTLS || len(o.Config) > 0 || len(o.Plugins) > 0 || o.Advanced != "") {
		o.Kind = KindNode
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	switch o.Kind {
	case "", KindURL, KindNode, KindContainer:
	default:
		errs = append(errs, fmt.Errorf("unknown Kind %q", o.Kind))
	}
	if o.Kind == KindURL || o.Kind == KindContainer {
		if o.TLS != NoTLS || len(o.Config) > 0 || len(o.Plugins) > 0 || o.Advanced != "" {
			errs = append(errs, fmt.Errorf("TLS, Config and Plugins, and Advanced, need KindNode, not %q", o.Kind))
		}
	}
	if o.TLS < NoTLS || o.TLS > MutualTLS {
		errs = append(errs, fmt.Errorf("unknown TLS mode %d", o.TLS))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("negative Timeout %v", o.Timeout))
	}
	return errors.Join(errs...)
}
