package harebus

import (
	"errors"
	"fmt"

	"github.com/harebus/harebus/internal/coding"
	"github.com/harebus/harebus/internal/field"
)

// Compression is a content coding, such as gzip. It is safe for concurrent use.
type Compression interface {
	// Coding is what the content encoding of a compressed message says: "gzip". It has 1 to 32 small letters, digits, -
	// and . characters.
	Coding() string
	// Compress appends the compressed body to dst.
	Compress(dst, body []byte) ([]byte, error)
	// Decompress returns the body, of at most limit bytes: it fails with [ErrBodyTooLarge] before it uses much more
	// memory than that. After [ErrNoDictionary] the message is retried; every other error parks it as "bad-payload".
	Decompress(body []byte, limit int) ([]byte, error)
}

var (
	// ErrBodyTooLarge says that a body would be larger than the limit. A [Compression] returns it.
	ErrBodyTooLarge = coding.ErrTooLarge
	// ErrNoDictionary says that a [Compression] has not got what it needs to read a body, which another instance may
	// have. The message is retried, as after a failure.
	ErrNoDictionary = errors.New("the dictionary of the compressed body is not known here")
)

// CompressConfig is about the compression of bodies. harebus always reads gzip, without configuration. A peer that does
// not know the coding of a message cannot read it: PikaBus knows none.
type CompressConfig struct {
	// With compresses the bodies of all messages. Default: none.
	With Compression
	// From is the size of the smallest body that is compressed, in bytes. Default: 4096. What does not become smaller
	// by a tenth is sent as it is.
	From int
	// Types are exceptions, by the wire name of the message type; nil never compresses.
	Types map[string]Compression
	// Accept are further codings that can be read.
	Accept []Compression
}

// Gzip is the coding gzip, at its fastest level. A body of 4 KiB of JSON becomes about 1.2 KiB and costs some 16 µs of
// CPU at each end.
type Gzip struct{}

// Coding is gzip.
func (Gzip) Coding() string { return "gzip" }

// Compress appends one gzip member.
func (Gzip) Compress(dst, body []byte) ([]byte, error) { return coding.Gzip(dst, body) }

// Decompress reads exactly one gzip member, or one body in the form of zlib, which Celery sends.
func (Gzip) Decompress(body []byte, limit int) ([]byte, error) { return coding.Gunzip(body, limit) }

// WithCompression compresses the body of one message, whatever its size; nil sends it as it is. A body that does not
// become smaller by a tenth is sent as it is, too.
func WithCompression(c Compression) SendOption {
	return sendOption(func(o *sendOptions) { o.compression, o.compressing = c, true })
}

// all are the codings that can be read, by name.
func (c *CompressConfig) all() map[string]Compression {
	known := map[string]Compression{}
	list := append([]Compression{Gzip{}}, c.Accept...)
	for _, one := range c.Types {
		list = append(list, one)
	}
	for _, one := range append(list, c.With) {
		if one != nil {
			known[one.Coding()] = one
		}
	}
	return known
}

// validate names what is wrong.
func (c *CompressConfig) validate() []error {
	return append(coding.Faults(c.With, c.Types, c.Accept), field.Outside("Payload.Compress.From", c.From, 1, 512<<20)...)
}

// choose returns the compression of a body; nil is none.
func (c *CompressConfig) choose(draft *Outgoing, o *sendOptions) Compression {
	if o.compressing {
		return o.compression
	}
	if len(draft.Body) < c.From {
		return nil
	}
	if one, ok := c.Types[draft.Type]; ok {
		return one
	}
	return c.With
}

// compress replaces the body of a draft by a smaller one if it is to be compressed, and returns the coding.
func (c *CompressConfig) compress(draft *Outgoing, o *sendOptions) (string, error) {
	with := c.choose(draft, o)
	if with == nil {
		return "", nil
	}
	if err := coding.Valid(with.Coding()); err != nil {
		return "", err
	}
	small, err := with.Compress(nil, draft.Body)
	if err != nil {
		return "", fmt.Errorf("compress the body with %s: %w", with.Coding(), err)
	}
	if len(small) > len(draft.Body)-len(draft.Body)/10 {
		return "", nil
	}
	draft.Body = small
	return with.Coding(), nil
}
