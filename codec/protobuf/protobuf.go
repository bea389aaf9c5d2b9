// Package protobuf lets a bus carry protocol buffers. It is a module of its own,
// so that programs which do not use it do not depend on it either.
//
//	cfg.Payload.Codecs = []harebus.Codec{protobuf.Codec{}} // before harebus.New
//
// From then on every [proto.Message] that is sent is encoded in the binary wire
// format, and every handler of a generated type, which takes a pointer, reads
// it. Give the type its wire name with harebus.WithType, when sending and when
// handling: [Name] returns the one of its .proto file.
package protobuf

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/harebus/harebus"
)

// ContentType is what Codec writes when its own ContentType is empty.
const ContentType = "application/protobuf"

// Codec is a [harebus.ValueCodec] for proto.Message. The zero value is ready for
// use.
type Codec struct {
	// Type is the content type, for peers that expect another, such as
	// "application/x-protobuf". Default: application/protobuf. To read several,
	// configure several codecs; the first encodes.
	Type string
	// Deterministic encodes equal messages into equal bytes, within one build of
	// the program: maps are sorted, which costs time.
	Deterministic bool
}

var _ harebus.ValueCodec = Codec{}

// ContentType returns the media type that is written and read.
func (c Codec) ContentType() string {
	if c.Type == "" {
		return ContentType
	}
	return c.Type
}

// Accepts reports whether value is a proto.Message.
func (Codec) Accepts(value any) bool {
	_, ok := value.(proto.Message)
	return ok
}

// Encode takes a proto.Message. A nil pointer, and a message that lacks required
// fields or holds text that is not UTF-8, are errors.
func (c Codec) Encode(value any) ([]byte, error) {
	m, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("protobuf: encode: a %T is not a proto.Message", value)
	}
	if !m.ProtoReflect().IsValid() {
		return nil, fmt.Errorf("protobuf: encode: the %T is nil", value)
	}
	body, err := proto.MarshalOptions{Deterministic: c.Deterministic}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("protobuf: encode: %w", err)
	}
	return body, nil
}

// Decode fills a proto.Message, replacing what is in it. An empty body is a
// message without fields. Fields that the type does not know are kept in it.
func (Codec) Decode(body []byte, target any) error {
	m, ok := target.(proto.Message)
	if !ok {
		return fmt.Errorf("protobuf: decode: a %T is not a proto.Message; let the handler take a pointer to the generated type", target)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("protobuf: decode: %w", err)
	}
	return nil
}

// Name returns the full name of m's type in its .proto file, such as
// "shop.v1.PlaceOrder": a wire name that is the same in every language. m may be
// a nil pointer.
func Name(m proto.Message) string {
	return string(m.ProtoReflect().Descriptor().FullName())
}
