package claim

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// magic begins a reference. Its first byte is in no UTF-8 text, so no peer can take a
// reference for a JSON body.
const magic = "\xc1hb\x02"

const maxText = 255

// reference says where a body is: after the magic come the name of the store and the key,
// each with its length in front, the size in eight bytes (big-endian), the SHA-256 of the
// body, its content type and its content encoding.
type reference struct {
	store, key                   string
	size                         int64
	sum                          [sha256.Size]byte
	contentType, contentEncoding string
}

func (r *reference) encode() ([]byte, error) {
	out := []byte(magic)
	text := func(s string) { out = append(append(out, byte(len(s))), s...) }
	for _, s := range []string{r.store, r.key, r.contentType, r.contentEncoding} {
		if len(s) > maxText {
			return nil, fmt.Errorf("a text of a reference has %d bytes, more than %d", len(s), maxText)
		}
	}
	text(r.store)
	text(r.key)
	out = binary.BigEndian.AppendUint64(out, uint64(r.size))
	out = append(out, r.sum[:]...)
	text(r.contentType)
	text(r.contentEncoding)
	return out, nil
}

var (
	errReference = errors.New("the body is no reference")
	// errNewer is a reference of a release that this one does not know.
	errNewer = errors.New("claim: the reference has a form that this version does not know; update this service")
)

func decode(in []byte) (r reference, err error) {
	const version = len(magic) - 1
	switch {
	case len(in) < len(magic) || string(in[:version]) != magic[:version]:
		return r, errReference
	case in[version] != magic[version]:
		return r, errNewer
	}
	in = in[len(magic):]
	take := func(n int) []byte {
		if len(in) < n {
			err, in = errReference, nil
			return make([]byte, n)
		}
		part := in[:n]
		in = in[n:]
		return part
	}
	text := func() string { return string(take(int(take(1)[0]))) }
	r.store, r.key = text(), text()
	r.size = int64(binary.BigEndian.Uint64(take(8)))
	copy(r.sum[:], take(sha256.Size))
	r.contentType, r.contentEncoding = text(), text()
	if len(in) > 0 {
		err = errReference
	}
	return r, err
}
