// Package s2 compresses message bodies with S2, an extension of Snappy: it takes a quarter
// of the time of Zstandard, and bodies are a third longer.
package s2

import (
	"bytes"
	"errors"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/zstd/internal/limited"
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
	r := readers.Get().(*s2.Reader) //nolint:forcetypeassert // the pool has nothing else
	defer readers.Put(r)
	r.Reset(bytes.NewReader(body))
	return limited.ReadAll(r, limit)
}
