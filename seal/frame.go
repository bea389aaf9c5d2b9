package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ContentType is the content type of a sealed message. Its body is a frame: first what can be
// read without a key, then nonce, ciphertext and tag.
//
//	C1 'h' 'b' 01   no valid UTF-8, so no peer takes a sealed body for JSON
//	algorithm       1 byte: 1 is XAES-256-GCM
//	key check       16 bytes: the start of SHA-256 of the key
//	not before      8 bytes: microseconds since 1970, 0 for none
//	key id, content type, content encoding, exchange, routing key
//	                texts: a uvarint with the length, then the bytes
//	nonce           24 bytes
//	ciphertext, tag 16 bytes
//
// The exchange is empty for a command that is sent to a queue; the routing key is then the
// name of the queue.
const ContentType = "application/vnd.harebus.sealed"

const (
	magic     = "\xc1hb\x01"
	algorithm = 1
	checkSize = 16
	maxText   = 255
	maxKeyID  = 1024
	fixedSize = len(magic) + 1 + checkSize + 8
)

// errNewer is a frame of a release that this one does not know.
var errNewer = errors.New("seal: the sealed message has a form that this version does not know; update this service")

// frame is a parsed frame. All of it lies in the body.
type frame struct {
	check               []byte
	notBefore           int64
	keyID               []byte
	contentType, coding []byte
	exchange, key       []byte
	head                []byte // everything before the nonce
	sealed              []byte // nonce, ciphertext and tag
}

// KeyID returns the id of the key with which a body was sealed. No key is needed for it, and
// nothing says that it is true. ok is false for a body that is no frame.
func KeyID(body []byte) (id string, ok bool) {
	f, err := parseFrame(body)
	return string(f.keyID), err == nil
}

// parseFrame reads a frame. Its parts are slices of body.
func parseFrame(body []byte) (frame, error) {
	switch {
	case len(body) < fixedSize:
		return frame{}, errors.New("the frame is cut off")
	case string(body[:3]) != magic[:3]:
		return frame{}, errors.New("the body is no frame")
	case body[3] != magic[3] || body[4] != algorithm:
		return frame{}, errNewer
	}
	rest := body[len(magic)+1:]
	f := frame{check: rest[:checkSize], notBefore: int64(binary.BigEndian.Uint64(rest[checkSize:]))}
	rest = rest[checkSize+8:]
	for _, text := range []struct {
		to   *[]byte
		most uint64
	}{{&f.keyID, maxKeyID}, {&f.contentType, maxText}, {&f.coding, maxText}, {&f.exchange, maxText}, {&f.key, maxText}} {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > text.most || n > uint64(len(rest)-size) || size != uvarintSize(n) {
			return frame{}, errors.New("the frame has a text with a wrong length")
		}
		*text.to, rest = rest[size:][:n], rest[size+int(n):]
	}
	if len(rest) < nonceSize+tagSize {
		return frame{}, errors.New("the frame is cut off")
	}
	f.head, f.sealed = body[:len(body)-len(rest)], rest
	return f, nil
}

// header is what a frame says in the clear.
type header struct {
	key                   *Key
	notBefore             int64
	contentType, coding   string
	exchange, destination string
}

// append appends everything of a frame before the nonce.
func (h *header) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, algorithm)
	b = append(b, h.key.check[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.notBefore))
	for _, text := range [...]string{h.key.id, h.contentType, h.coding, h.exchange, h.destination} {
		b = appendText(b, text)
	}
	return b
}

func (h *header) valid() error {
	for _, text := range [...]struct{ name, value string }{
		{"content type", h.contentType}, {"content encoding", h.coding}, {"exchange", h.exchange}, {"routing key", h.destination},
	} {
		if len(text.value) > maxText {
			return fmt.Errorf("seal: the %s has %d bytes, more than %d", text.name, len(text.value), maxText)
		}
	}
	return nil
}

// size is an upper bound of what append appends.
func (h *header) size() int {
	return fixedSize + 5*3 + len(h.key.id) + len(h.contentType) + len(h.coding) + len(h.exchange) + len(h.destination)
}

// appendText appends a text with its length, so that no bytes can move between neighbours.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// uvarintSize is how many bytes the shortest form of n takes. Others are refused: a frame has
// one form only.
func uvarintSize(n uint64) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
