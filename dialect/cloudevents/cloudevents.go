// Package cloudevents reads CloudEvents 1.0 and 0.3, and writes 1.0, on RabbitMQ: what their binding for AMQP makes of an event there, and what
// Knative, Dapr, Wolverine and the SDKs write.
//
// An event is read in binary form (its attributes are headers, its data is the body) and in structured form (one JSON
// document has both). docs/cloudevents.md says what to configure on both sides. Batches, and formats other than JSON, are not read.
package cloudevents

import (
	"errors"
	"fmt"
	"slices"

	"github.com/harebus/harebus/dialect"
)

// Config says which types are exchanged, and how events are written. All forms are read.
type Config struct {
	// Types are wire names and the attributes type of events: {"OrderPlaced": "com.acme.order.placed"}.
	Types dialect.Types
	// Structured writes one JSON document, which carries attributes and data, with the content type application/cloudevents+json. Wolverine
	// reads this form only. Default: binary.
	Structured bool
	// Prefix is that of the headers of an event in binary form: "cloudEvents_" (default), "cloudEvents:", "ce-", which is that of
	// HTTP and Knative, or "ce_", which is Kafka's.
	Prefix string
	// Source is the attribute source of what is sent. Default: / and the name of the queue of the endpoint that sends.
	Source string
	// SourceInID makes the id of a received message of source and id together. Ids of events differ within one source only, and an inbox drops
	// a message whose id it has seen. Not needed if the ids are UUIDs, or if one source writes to the queue.
	SourceInID bool
}

// Dialect is that of CloudEvents. Make it with [New].
type Dialect struct {
	Config

	own map[string]string
	err error
}

// The spellings of attributes in headers. The first one is that of the binding for AMQP, and of [dialect.Envelope.Headers].
var prefixes = []string{prefix, "cloudEvents:", "ce-", "ce_"}

const (
	prefix     = "cloudEvents_"
	structured = "application/cloudevents"
	jsonType   = "application/json"
	version    = "1.0"
)

// The attributes. Others are extensions.
const (
	specVersion     = "specversion"
	id              = "id"
	source          = "source"
	kind            = "type"
	occurred        = "time"
	dataContentType = "datacontenttype"
	dataEncoding    = "datacontentencoding" // of version 0.3
	correlationID   = "correlationid"
	causationID     = "causationid"
	traceParent     = "traceparent"
	traceState      = "tracestate"
	data            = "data"
	dataBase64      = "data_base64"
)

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{Config: cfg}
	d.own, d.err = cfg.Types.Own()
	if d.Prefix == "" {
		d.Prefix = prefix
	}
	if !slices.Contains(prefixes, d.Prefix) {
		d.err = errors.Join(d.err, fmt.Errorf("the Prefix %.80q: it can be one of %q", cfg.Prefix, prefixes))
	}
	return d
}

// Name is cloudevents.
func (*Dialect) Name() string { return "cloudevents" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error { return d.err }

// Sample is an event in binary form.
func (*Dialect) Sample() dialect.Wire {
	return dialect.Wire{
		RoutingKey: "orders",
		Properties: dialect.Properties{ContentType: jsonType, MessageID: "01a3"},
		Headers: map[string]any{
			prefix + specVersion: version, prefix + id: "01a3", prefix + source: "/shop", prefix + kind: "com.acme.order.placed",
		},
		Body: []byte(`{"id":7}`),
	}
}
