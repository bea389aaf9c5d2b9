// Package s2 compresses message bodies with S2, an extension of Snappy: it is faster than
// Zstandard, and bodies are longer. docs/payload.md has figures.
package s2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/harebus/harebus"
)

// Coding is a [harebus.Compression]. Its bodies are streams in the framing format of S2,
// which begins with ten bytes that are no JSON: a block alone can look like a body that is
// not compressed.
type Coding struct{}

var _ harebus.Compression = Coding{}

// magic begins each stream.
const magic = "\xff\x06\x00\x00S2sTwO"

// maxBlock bounds the memory that a block can ask for.
const maxBlock = 4 << 20

var (
	writers = sync.Pool{New: func() any { return s2.NewWriter(nil, s2.WriterConcurrency(1)) }}
	readers = sync.Pool{New: func() any { return s2.NewReader(nil, s2.ReaderMaxBlockSize(maxBlock)) }}
)

// Coding is s2.
func (Coding) Coding() string { return "s2" }

// Compress appends one stream.
func (Coding) Compress(dst, body []byte) ([]byte, error) {
	w := writers.Get().(*s2.Writer) //nolint:forcetypeassert // the pool has nothing else
	defer writers.Put(w)
	out := bytes.NewBuffer(dst)
	w.Reset(out)
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Decompress reads one stream.
func (Coding) Decompress(body []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(body, []byte(magic)) {
		return nil, errors.New("the body is no stream of S2")
	}
	size, err := length(body[len(magic):])
	switch {
	case err != nil:
		return nil, err
	case size > int64(limit):
		return nil, harebus.ErrBodyTooLarge
	case size > mostRatio*int64(len(body)):
		return nil, errors.New("the body cannot be as long as it says")
	}
	r := readers.Get().(*s2.Reader) //nolint:forcetypeassert // the pool has nothing else
	defer readers.Put(r)
	r.Reset(bytes.NewReader(body))
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("the body is shorter than it says: %w", err)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the body is longer than it says, or damaged: %w", err)
	}
	return out, nil
}

// mostRatio is more than a block can expand to: one of 4 MiB takes 20 bytes.
const mostRatio = 1 << 18

// length adds up the lengths that the chunks of a stream say, without decompressing them.
func length(chunks []byte) (size int64, err error) {
	const head, checksum, compressed, plain, index = 4, 4, 0x00, 0x01, 0x99
	for len(chunks) > 0 {
		if len(chunks) < head {
			return 0, errCut
		}
		kind, n := chunks[0], int(chunks[1])|int(chunks[2])<<8|int(chunks[3])<<16
		chunks = chunks[head:]
		if len(chunks) < n || n < checksum && (kind == compressed || kind == plain) {
			return 0, errCut
		}
		switch kind {
		case compressed:
			said, err := s2.DecodedLen(chunks[checksum:n])
			if err != nil {
				return 0, err
			}
			size += int64(said)
		case plain:
			size += int64(n - checksum)
		case index:
		default:
			return 0, fmt.Errorf("the body has a chunk of the kind %#x", kind)
		}
		chunks = chunks[n:]
	}
	return size, nil
}

var errCut = errors.New("the body is cut")
