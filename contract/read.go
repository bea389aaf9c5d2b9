package contract

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// mostBytes is the size of the largest document that is read.
const mostBytes = 16 << 20

// Document is an AsyncAPI document of version 3.
type Document struct {
	root       map[string]any
	operations []operation
	queues     map[string]bindings
}

// operation is one message in one direction at one place.
type operation struct {
	action, place, message string
	contentType            string
	payload, headers       any
}

// key identifies an operation in both versions of a document.
func (o *operation) key() string { return o.action + "\x00" + o.place + "\x00" + o.message }

// String names the operation for a reader.
func (o *operation) String() string { return fmt.Sprintf("%s %q, %s", o.action, o.message, o.place) }

// Read reads an AsyncAPI document of version 3 in JSON; one in YAML is an error that says how to convert it. It follows references inside of the document only.
func Read(r io.Reader) (*Document, error) {
	limited := &io.LimitedReader{R: r, N: mostBytes + 1}
	whole := bufio.NewReader(limited)
	begin, _ := whole.Peek(whole.Size()) // whoever reads on gets the error
	if bytes.HasPrefix(begin, byteOrderMark) {
		_, _ = whole.Discard(len(byteOrderMark)) // they are there
	}
	in := json.NewDecoder(whole)
	in.UseNumber()
	var value any
	switch err := in.Decode(&value); {
	case err == nil || limited.N <= 0:
	case isYAML(begin):
		return nil, errors.New("contract: read document: it is YAML, and only JSON is read: convert it first, with yq -o=json FILE")
	default:
		return nil, fmt.Errorf("contract: read document: it is not JSON: %w", err)
	}
	switch _, err := in.Token(); {
	case limited.N <= 0:
		return nil, fmt.Errorf("contract: read document: it has more than %d bytes", mostBytes)
	case !errors.Is(err, io.EOF):
		return nil, errors.New("contract: read document: something follows the document; a file holds one")
	}
	root, _ := value.(map[string]any)
	version, _ := root["asyncapi"].(string)
	switch {
	case version == "":
		return nil, errors.New("contract: read document: it is no AsyncAPI document: an object with the field asyncapi is needed")
	case !strings.HasPrefix(version, "3."):
		return nil, fmt.Errorf("contract: read document: it is AsyncAPI %.20q, and only version 3 is read", version)
	}
	d := &Document{root: root, queues: map[string]bindings{}}
	if err := errors.Join(d.readOperations(), d.readQueues()); err != nil {
		return nil, fmt.Errorf("contract: read document: %w", err)
	}
	return d, nil
}

// byteOrderMark is what some editors put before a text.
var byteOrderMark = []byte("\uFEFF")

// isYAML says whether a text that is no JSON looks like AsyncAPI in YAML, by how it begins.
func isYAML(begin []byte) bool {
	text := strings.TrimSpace(string(bytes.TrimPrefix(begin, byteOrderMark)))
	braced := strings.HasPrefix(text, "{")
	for line := range strings.Lines(text) {
		key, _, _ := strings.Cut(line, ":")
		switch key = strings.Trim(key, "\"' \t{"); {
		case strings.HasPrefix(line, "%YAML"), strings.HasPrefix(line, "---"), key == "asyncapi" && (!braced || !strings.Contains(line, `"asyncapi"`)):
			return true
		}
	}
	return false
}

// Operations names what the service receives and sends, sorted.
func (d *Document) Operations() []string {
	names := make([]string, len(d.operations))
	for i := range d.operations {
		names[i] = d.operations[i].String()
	}
	return names
}

func (d *Document) readOperations() error {
	all, err := object(d.root, "operations")
	if err != nil {
		return err
	}
	for id, value := range all {
		if err := d.readOperation(value); err != nil {
			return fmt.Errorf("operation %.100q: %w", id, err)
		}
	}
	slices.SortFunc(d.operations, func(a, b operation) int { return strings.Compare(a.key(), b.key()) })
	for i := 1; i < len(d.operations); i++ {
		if was, is := &d.operations[i-1], &d.operations[i]; was.key() == is.key() && !reflect.DeepEqual(was, is) {
			return fmt.Errorf("two operations with different messages are: %s", is)
		}
	}
	d.operations = slices.CompactFunc(d.operations, func(a, b operation) bool { return a.key() == b.key() })
	return nil
}

// readOperation reads the messages of an operation.
func (d *Document) readOperation(value any) error {
	op, err := d.resolved(value)
	if err != nil {
		return err
	}
	action := text(op, "action")
	if op["reply"] != nil {
		return errors.New("it has a reply, which is not read; describe the reply as an operation of its own")
	}
	if action != "receive" && action != "send" {
		return fmt.Errorf("action %.20q is neither receive nor send", action)
	}
	reference, _ := op["channel"].(map[string]any)
	if reference["$ref"] == nil {
		return errors.New("it has no reference to a channel")
	}
	channel, err := d.resolved(reference)
	if err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	messages, err := d.messagesOf(op, channel)
	if err != nil {
		return err
	}
	for key, value := range messages {
		one, err := d.readMessage(key, value)
		if err != nil {
			return fmt.Errorf("message %.100q: %w", key, err)
		}
		one.action, one.place = action, placeOf(channel, text(reference, "$ref"))
		d.operations = append(d.operations, *one)
	}
	return nil
}

// messagesOf are those that the operation names, or all of its channel.
func (d *Document) messagesOf(op, channel map[string]any) (map[string]any, error) {
	list, chosen := op["messages"].([]any)
	if !chosen {
		return object(channel, "messages")
	}
	messages := map[string]any{}
	for i, value := range list {
		m, _ := value.(map[string]any)
		name := text(m, "$ref")
		if name == "" {
			return nil, fmt.Errorf("messages[%d] is no reference", i)
		}
		messages[name[strings.LastIndexByte(name, '/')+1:]] = m
	}
	return messages, nil
}

func (d *Document) readMessage(key string, value any) (*operation, error) {
	m, err := d.resolved(value)
	if err != nil {
		return nil, err
	}
	if m["traits"] != nil {
		return nil, errors.New("it has traits, which are not read; write what they say into the message")
	}
	one := &operation{message: text(m, "name"), contentType: text(m, "contentType"), headers: m["headers"], payload: m["payload"]}
	if one.message == "" {
		one.message = unescaped.Replace(key)
	}
	if one.contentType == "" {
		one.contentType = text(d.root, "defaultContentType")
	}
	for _, part := range []*any{&one.payload, &one.headers} {
		if *part, err = d.unwrapped(*part); err != nil {
			return nil, err
		}
	}
	return one, nil
}

// unwrapped is the schema of a multi-format schema; another one is itself. Diff reports references that lead nowhere.
func (d *Document) unwrapped(schema any) (any, error) {
	m, err := d.resolved(schema)
	if err != nil || m["schemaFormat"] == nil {
		return schema, nil //nolint:nilerr // see above
	}
	format := strings.ReplaceAll(text(m, "schemaFormat"), " ", "")
	if !strings.HasPrefix(format, "application/vnd.aai.asyncapi") && (!strings.HasPrefix(format, "application/schema+") || !strings.HasSuffix(format, ";version=draft-07")) {
		return nil, fmt.Errorf("the schemaFormat %.100q is not read, only those of AsyncAPI and of JSON Schema draft-07", format)
	}
	return m["schema"], nil
}

// addressOf is the address of a channel, or the name under which it stands in the document.
func addressOf(channel map[string]any, key string) string {
	if address := text(channel, "address"); address != "" {
		return address
	}
	return unescaped.Replace(key)
}

// amqpOf is what a channel says for AMQP.
func amqpOf(channel map[string]any) map[string]any {
	bindings, _ := channel["bindings"].(map[string]any)
	amqp, _ := bindings["amqp"].(map[string]any)
	return amqp
}

// placeOf names where the messages of a channel are: in a queue, or under a topic of an exchange.
func placeOf(channel map[string]any, reference string) string {
	address, amqp := addressOf(channel, strings.TrimPrefix(reference, "#/channels/")), amqpOf(channel)
	exchange, _ := amqp["exchange"].(map[string]any)
	switch {
	case text(amqp, "is") == "queue":
		return fmt.Sprintf("queue %q", address)
	case text(exchange, "name") != "":
		return topicOf(text(exchange, "name"), address)
	default:
		return fmt.Sprintf("channel %q", address)
	}
}

func topicOf(exchange, topic string) string {
	return fmt.Sprintf("topic %q of exchange %q", topic, exchange)
}

// mostReferences is how many references may lead to each other.
const mostReferences = 100

// resolved follows the references that a value consists of.
func (d *Document) resolved(value any) (map[string]any, error) {
	for range mostReferences {
		m, ok := value.(map[string]any)
		if !ok {
			return nil, errors.New("it is no object")
		}
		reference, ok := m["$ref"].(string)
		if !ok {
			return m, nil
		}
		var err error
		if value, err = d.at(reference); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("its references go round in circles")
}

// at returns what a reference points to.
func (d *Document) at(reference string) (any, error) {
	path, ok := strings.CutPrefix(reference, "#/")
	if !ok {
		return nil, fmt.Errorf("the reference %.100q leads out of the document; put everything into one file", reference)
	}
	var value any = d.root
	for part := range strings.SplitSeq(path, "/") {
		m, _ := value.(map[string]any)
		if value, ok = m[unescaped.Replace(part)]; !ok {
			return nil, fmt.Errorf("the reference %.100q leads nowhere", reference)
		}
	}
	return value, nil
}

// object returns a field that is an object; none is empty.
func object(of map[string]any, name string) (map[string]any, error) {
	value, there := of[name]
	m, ok := value.(map[string]any)
	if there && !ok {
		return nil, fmt.Errorf("%s is no object", name)
	}
	return m, nil
}

// text returns a field that is a text; else it is empty.
func text(of map[string]any, name string) string {
	s, _ := of[name].(string)
	return s
}
