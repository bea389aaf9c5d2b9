// Package zstd compresses message bodies with Zstandard, also with dictionaries. Package s2
// beside it is faster and compresses less.
//
//	dictionary, err := os.ReadFile("orders.dict")
//	…
//	coding, err := zstd.New(zstd.Config{Dictionary: dictionary})
//	…
//	cfg.Payload.Compress.With = coding
package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/harebus/harebus"
)

// Config configures a [Coding]. The zero value compresses fast and has no dictionary.
type Config struct {
	// Better compresses some 5 % better and takes some 10 % to 20 % longer.
	Better bool
	// Dictionary is used for what is sent, and to read what was compressed with it: the
	// output of `zstd --train` for bodies like those of the service. With a good one even
	// bodies of 256 bytes become half as long. Its number, which is in each compressed body,
	// must be unique. Default: none.
	Dictionary []byte
	// Accept are further dictionaries, for reading only. To change the dictionary of a
	// system, add the new one to Accept of all services first, then make it the Dictionary
	// of those that send, and remove the old one when no queue has bodies of it.
	Accept [][]byte
}

// Coding is a [harebus.Compression]. [New] makes one.
type Coding struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	options []zstd.DOption
	known   map[uint32]bool // dictionaries
}

var _ harebus.Compression = (*Coding)(nil)

// maxWindow bounds the memory that a compressed body can ask for.
const maxWindow = 8 << 20

// New reads the dictionaries.
func New(c Config) (*Coding, error) {
	level := zstd.SpeedFastest
	if c.Better {
		level = zstd.SpeedDefault
	}
	options := []zstd.EOption{
		zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow), zstd.WithSingleSegment(true),
	}
	coding := &Coding{known: map[uint32]bool{0: true}}
	dictionaries := c.Accept
	if len(c.Dictionary) > 0 {
		options = append(options, zstd.WithEncoderDict(c.Dictionary))
		dictionaries = append([][]byte{c.Dictionary}, dictionaries...)
	}
	for i, d := range dictionaries {
		read, err := zstd.InspectDictionary(d)
		if err != nil {
			return nil, fmt.Errorf("zstd: dictionary %d: it is not one that zstd --train makes: %w", i+1, err)
		}
		if coding.known[read.ID()] {
			return nil, fmt.Errorf("zstd: dictionary %d: its number %d is taken; dictionaries need different numbers, and not 0", i+1, read.ID())
		}
		coding.known[read.ID()] = true
	}
	var err error
	if coding.encoder, err = zstd.NewWriter(nil, options...); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	coding.options = []zstd.DOption{
		zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderDicts(dictionaries...),
	}
	if coding.decoder, err = zstd.NewReader(nil, coding.options...); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return coding, nil
}

// Coding is zstd.
func (*Coding) Coding() string { return "zstd" }

// Compress appends one frame, which says how long the body is.
func (c *Coding) Compress(dst, body []byte) ([]byte, error) {
	return c.encoder.EncodeAll(body, dst), nil
}

// Decompress reads exactly one frame. It fails with [harebus.ErrNoDictionary] if it does not
// have the dictionary.
func (c *Coding) Decompress(body []byte, limit int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return nil, fmt.Errorf("read the head: %w", err)
	}
	switch {
	case h.Skippable:
		return nil, errors.New("the body begins with a skippable frame")
	case h.HasFCS && h.FrameContentSize > uint64(limit):
		return nil, harebus.ErrBodyTooLarge
	case !c.known[h.DictionaryID]:
		return nil, fmt.Errorf("%w: number %d", harebus.ErrNoDictionary, h.DictionaryID)
	}
	if end, err := frameEnd(body, h); err != nil {
		return nil, err
	} else if end != len(body) {
		return nil, fmt.Errorf("%d bytes follow the compressed body", len(body)-end)
	}
	if !h.HasFCS {
		return c.stream(body, limit)
	}
	const mostRatio = 64 << 10 // a block of 128 KiB can be four bytes
	if h.FrameContentSize > mostRatio*uint64(len(body)) {
		return nil, errors.New("the body cannot be as long as it says")
	}
	out, err := c.decoder.DecodeAll(body, make([]byte, 0, h.FrameContentSize))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// stream reads a frame that does not say how long the body is. It is decompressed twice: first
// to know the length, so that nothing larger than the body is allocated.
func (c *Coding) stream(body []byte, limit int) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(body), append(c.options, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))...)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(r, int64(limit)+1))
	switch {
	case n > int64(limit):
		return nil, harebus.ErrBodyTooLarge
	case err != nil:
		return nil, err
	}
	if err := r.Reset(bytes.NewReader(body)); err != nil {
		return nil, err
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	return out, nil
}

// frameEnd returns where the first frame ends (RFC 8878, 3.1.1).
func frameEnd(body []byte, h zstd.Header) (int, error) {
	const blockHead, checksum = 3, 4
	at := h.HeaderSize
	for {
		if len(body) < at+blockHead {
			return 0, errors.New("the body is cut")
		}
		head := int(body[at]) | int(body[at+1])<<8 | int(body[at+2])<<16
		last, kind, size := head&1 == 1, head>>1&3, head>>3
		if kind == 1 { // one byte, repeated
			size = 1
		}
		at += blockHead + size
		if last {
			break
		}
	}
	if h.HasCheckSum {
		at += checksum
	}
	if len(body) < at {
		return 0, errors.New("the body is cut")
	}
	return at, nil
}
