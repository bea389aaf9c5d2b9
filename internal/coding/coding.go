// Package coding reads content encodings and has gzip with limits.
package coding

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// ErrTooLarge says that a body would be larger than allowed.
var ErrTooLarge = errors.New("the decompressed body is too large")

// Split separates a content encoding into the coding and the charset: Spring writes them as
// "gzip, utf-8", and older versions of it as "gzip:utf-8". charset is all of it if accept
// knows no coding in it.
func Split(encoding string, accept func(coding string) bool) (coding, charset string) {
	first, rest, _ := strings.Cut(encoding, ",")
	if first == encoding {
		first, rest, _ = strings.Cut(encoding, ":")
	}
	first = strings.ToLower(strings.TrimSpace(first))
	if !accept(first) {
		return "", encoding
	}
	return first, strings.TrimSpace(rest)
}

// Valid says whether a content encoding can have this name for a coding.
func Valid(name string) error {
	const longest = 32
	if name == "" || len(name) > longest || name == "utf-8" {
		return fmt.Errorf("%.40q is no name of a coding: it has 1 to %d characters and is not utf-8", name, longest)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("%.40q is no name of a coding: it has small letters, digits, - and . only", name)
		}
	}
	return nil
}

var (
	writers = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is valid
		return w
	}}
	readers sync.Pool
)

// Gzip compresses as fast as the format allows, and appends to dst.
func Gzip(dst, body []byte) ([]byte, error) {
	w := writers.Get().(*gzip.Writer) //nolint:forcetypeassert // the pool has nothing else
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

// Gunzip decompresses one gzip member, with nothing behind it, to at most limit bytes. It
// returns nothing of a body whose checksum is wrong. The member ends with its length
// (RFC 1952), so nothing larger than the body is allocated. It also reads the form of zlib, which Celery
// calls application/x-gzip.
func Gunzip(body []byte, limit int) ([]byte, error) {
	if len(body) > 1 && body[0] != 0x1f && binary.BigEndian.Uint16(body)%31 == 0 { // the check of a zlib header
		return inflate(body, limit)
	}
	in := bytes.NewReader(body) // reads single bytes, so nothing behind the member is taken
	r, err := reader(in)
	if err != nil {
		return nil, err
	}
	defer readers.Put(r)
	r.Multistream(false)
	const mostRatio = 1032 // of the format
	said := int64(binary.LittleEndian.Uint32(body[len(body)-4:]))
	switch {
	case said > mostRatio*int64(len(body)):
		return nil, errors.New("the body cannot be as long as it says")
	case said > int64(limit):
		return nil, ErrTooLarge
	}
	out := make([]byte, said)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("the body is shorter than it says: %w", err)
	}
	switch n, err := r.Read(make([]byte, 1)); { // which checks the sum
	case n > 0:
		return nil, errors.New("the body is longer than it says")
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("the end of the body: %w", err)
	}
	if in.Len() > 0 {
		return nil, fmt.Errorf("%d bytes follow the compressed body", in.Len())
	}
	return out, nil
}

// inflate is Gunzip for the form of zlib (RFC 1950). It says nowhere how long the body is, so it is read twice, the first
// time to see that.
func inflate(body []byte, limit int) ([]byte, error) {
	in := bytes.NewReader(body)
	r, err := zlib.NewReader(in)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, err
	case n > int64(limit):
		return nil, ErrTooLarge
	case in.Len() > 0:
		return nil, fmt.Errorf("%d bytes follow the compressed body", in.Len())
	}
	in.Reset(body)
	if err := r.(zlib.Resetter).Reset(in, nil); err != nil { //nolint:forcetypeassert // as package zlib promises
		return nil, err
	}
	out := make([]byte, n)
	_, err = io.ReadFull(r, out)
	return out, err
}

func reader(in io.Reader) (*gzip.Reader, error) {
	if r, ok := readers.Get().(*gzip.Reader); ok {
		return r, r.Reset(in)
	}
	return gzip.NewReader(in)
}
