// Package asyncapi writes what a service takes from the bus and gives to it as an AsyncAPI 3.1 document, has a test fail when
// the document in version control is stale, and validates received messages against the schemas of their types.
//
// The document has a channel for each queue and topic, an operation for each handler, and for each message that
// [harebus.Sends] and [harebus.Publishes] declare. The schemas are those of the Go types, as encoding/json writes them. It is
// a module of its own because of its dependency, a validator of JSON Schema.
package asyncapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/contract"
)

// Info is what a document says of the service itself.
type Info struct {
	// Title is the name of the service; Version is that of the contract, "1.4.0". Both are needed.
	Title, Version string
	// Description is for readers, in Markdown.
	Description string
	// Servers are hosts by name: {"production": "rabbit.example.org:5672"}. Default: none is named.
	Servers map[string]string
}

// Export returns the document of a setup, as JSON whose order never changes. All handlers must be registered. It does not
// connect.
//
// A type that JSON cannot carry is an error. A message whose codec does not write JSON, and one that is handled undecoded, has
// no schema. Fields are required unless their tag has omitempty or omitzero; a tag jsonschema:"minimum=1" adds what
// the type does not say.
func Export(setup *harebus.Setup, info Info) ([]byte, error) {
	of, err := setup.Contract()
	if err != nil {
		return nil, fmt.Errorf("asyncapi: export: %w", err)
	}
	document, err := newDocument(of, info)
	if err != nil {
		return nil, fmt.Errorf("asyncapi: export: %w", err)
	}
	encoded, err := json.MarshalIndent(document.root(info), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("asyncapi: export: %w", err)
	}
	return append(encoded, '\n'), nil
}

// document is one that is being made.
type document struct {
	of         contract.Service
	schemas    *schemas
	channels   map[string]any
	operations map[string]any
	messages   map[string]any
	keys       map[any]string             // of what has one: a place or a messageID
	bodies     map[[3]string]reflect.Type // of an action, a channel and a wire name
}

// place tells channels apart.
type place struct{ kind, name string }

// messageID tells messages apart: two of one wire name may have different bodies.
type messageID struct {
	name  string
	value reflect.Type
	media string
}

func newDocument(of contract.Service, info Info) (*document, error) {
	if info.Title == "" || info.Version == "" {
		return nil, errors.New("Info needs a Title and a Version")
	}
	d := &document{of: of, schemas: newSchemas(), channels: schema{}, operations: schema{}, messages: schema{}, keys: map[any]string{}, bodies: map[[3]string]reflect.Type{}}
	for _, q := range of.Queues {
		d.addQueue(q)
	}
	for _, side := range []struct {
		action string
		all    []contract.Message
	}{{"receive", of.Receives}, {"send", of.Sends}} {
		for _, m := range side.all {
			if err := d.addOperation(side.action, m); err != nil {
				return nil, fmt.Errorf("message %q: %w", m.Type, err)
			}
		}
	}
	return d, nil
}

// root is the whole document.
func (d *document) root(info Info) any {
	about := schema{"title": info.Title, "version": info.Version}
	if info.Description != "" {
		about["description"] = info.Description
	}
	schemas := maps.Clone(d.schemas.made)
	schemas[headersName] = d.headers()
	root := schema{
		"asyncapi": "3.1.0", "info": about, "defaultContentType": "application/json",
		"channels": d.channels, "operations": d.operations,
		"components": schema{"messages": d.messages, "schemas": schemas},
	}
	servers := schema{}
	for name, host := range info.Servers {
		servers[plain(name)] = schema{"host": host, "protocol": "amqp", "protocolVersion": "0.9.1"}
	}
	if len(servers) > 0 {
		root["servers"] = servers
	}
	return root
}

const bindingVersion = "0.3.0"

// addQueue adds the channel of a queue.
func (d *document) addQueue(q contract.Queue) string {
	key, known := d.key(place{"queue", q.Name}, d.channels, "queue."+plain(q.Name))
	if known {
		return key
	}
	channel := schema{
		"address": q.Name, "messages": schema{},
		"bindings": schema{"amqp": schema{"is": "queue", "queue": schema{"name": q.Name}, "bindingVersion": bindingVersion}},
	}
	if q.PerInstance {
		channel["address"] = q.Name + ".{instance}"
		channel["parameters"] = schema{"instance": schema{"description": "random digits; each instance of the service has a queue of its own"}}
	}
	bound := schema{"exchange": d.of.Direct}
	channel[contract.Extension] = bound
	if len(q.Topics) > 0 {
		bound["topics"], bound["topicExchange"] = slices.Sorted(slices.Values(q.Topics)), d.of.Topic
		channel["description"] = "bound to the topics " + strings.Join(slices.Sorted(slices.Values(q.Topics)), ", ") + " of the exchange " + d.of.Topic
	}
	d.channels[key] = channel
	return key
}

// addTopic adds the channel of a topic.
func (d *document) addTopic(topic string) string {
	key, known := d.key(place{"topic", topic}, d.channels, "topic."+plain(topic))
	if !known {
		d.channels[key] = schema{
			"address": topic, "messages": schema{},
			"bindings": schema{"amqp": schema{"is": "routingKey", "exchange": schema{"name": d.of.Topic, "type": "topic", "durable": true, "autoDelete": false}, "bindingVersion": bindingVersion}},
		}
	}
	return key
}

// addOperation adds a message in one direction, and its channel.
func (d *document) addOperation(action string, m contract.Message) error {
	for m.Value != nil && m.Value.Kind() == reflect.Pointer {
		m.Value = m.Value.Elem()
	}
	message, err := d.addMessage(m)
	if err != nil {
		return err
	}
	var channel string
	if m.Topic != "" {
		channel = d.addTopic(m.Topic)
	} else {
		channel = d.addQueue(contract.Queue{Name: m.Queue})
	}
	if other, twice := d.bodies[[3]string{action, channel, m.Type}]; twice && other != m.Value {
		return fmt.Errorf("it is a %v and a %v in one place (%s, %s); use one Go type for both, or another wire name", other, m.Value, action, channel)
	}
	d.bodies[[3]string{action, channel, m.Type}] = m.Value
	in := "#/channels/" + channel
	d.channels[channel].(schema)["messages"].(schema)[message] = schema{"$ref": "#/components/messages/" + message}
	d.operations[free(d.operations, action+"."+channel+"."+message)] = schema{
		"action": action, "channel": schema{"$ref": in}, "messages": []any{schema{"$ref": in + "/messages/" + message}},
	}
	return nil
}

// key returns the key of something in a map, and whether it has one already.
func (d *document) key(of any, in map[string]any, name string) (key string, known bool) {
	key, known = d.keys[of]
	if !known {
		key = free(in, name)
		d.keys[of] = key
	}
	return key, known
}

// free is a key that is not in a map yet: names that differ only in signs have the same.
func free(in map[string]any, key string) string {
	for n, one := 2, key; ; n++ {
		if in[one] == nil {
			return one
		}
		one = fmt.Sprintf("%s.%d", key, n)
	}
}

// addMessage adds a message and returns its key.
func (d *document) addMessage(m contract.Message) (string, error) {
	key, known := d.key(messageID{m.Type, m.Value, m.ContentType}, d.messages, plain(m.Type))
	if known {
		return key, nil
	}
	one := schema{
		"name": m.Type, "contentType": m.ContentType,
		"correlationId": schema{"location": "$message.header#/" + d.of.HeaderPrefix + harebus.HeaderCorrelationID},
		"headers":       schema{"$ref": where + headersName},
		"bindings":      schema{"amqp": schema{"messageType": m.Type, "bindingVersion": bindingVersion}},
	}
	if m.Value != nil && isJSON(m.ContentType) {
		payload, err := d.schemas.body(m.Value)
		if err != nil {
			return "", err
		}
		one["payload"] = payload
	}
	d.messages[key] = one
	return key, nil
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// headersName is the schema of the standard headers. No Go type has a name with this sign.
const headersName = "harebus-headers"

// headers are the standard headers that say what a message is.
func (d *document) headers() schema {
	text := schema{"type": "string"}
	fields := schema{}
	for _, name := range []string{
		harebus.HeaderMessageID, harebus.HeaderCorrelationID, harebus.HeaderTimeSent, harebus.HeaderReplyTo, harebus.HeaderOriginatingAddress,
		harebus.HeaderMessageType, harebus.HeaderContentType, harebus.HeaderContentEncoding,
	} {
		fields[d.of.HeaderPrefix+name] = text
	}
	fields[d.of.HeaderPrefix+harebus.HeaderIntent] = schema{"type": "string", "enum": []any{string(harebus.IntentCommand), string(harebus.IntentEvent)}}
	return schema{
		"type": "object", "properties": fields, "required": []any{d.of.HeaderPrefix + harebus.HeaderMessageType},
		"description": "Headers of the AMQP message. Each has a property of AMQP beside it: message_id, correlation_id and so on.",
	}
}
