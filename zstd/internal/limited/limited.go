// Package limited reads what may be longer than it is allowed to be.
package limited

import (
	"errors"
	"io"

	"github.com/harebus/harebus"
)

// ReadAll reads everything. It fails with [harebus.ErrBodyTooLarge] if that is more than limit
// bytes, and never allocates much more than that: the buffer grows to four times its size each
// time, and not beyond the limit.
func ReadAll(r io.Reader, limit int) ([]byte, error) {
	const first, growth = 64 << 10, 4
	buf := make([]byte, 0, min(first, limit+1))
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			return nil, harebus.ErrBodyTooLarge
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return nil, err
		case len(buf) == cap(buf):
			larger := make([]byte, len(buf), min(growth*len(buf), limit+1))
			copy(larger, buf)
			buf = larger
		}
	}
}
