// Package messageid makes message ids.
package messageid

import "github.com/google/uuid"

// New returns a new id: UUID version 7 (RFC 9562), which sorts by time.
func New() string {
	id, err := uuid.NewV7()
	if err != nil {
		// crypto/rand does not fail on supported systems; Go itself aborts if it does.
		panic("harebus: make message id: " + err.Error())
	}
	return id.String()
}

// Derive makes the id of a message that a handler sends: a redelivery of the incoming
// message makes the same ones again. The first part is the incoming id. If that is a UUID
// with the time in front (version 7, or 8 as this function makes them), the new one begins
// with the same time: such ids stay in order in the index of an inbox, which costs a
// database a fraction of the work of random ones. (UUID versions 8 and 5, RFC 9562.)
func Derive(parts ...string) string {
	var name []byte
	for _, part := range parts {
		name = append(name, part...)
		name = append(name, 0) // so that ("ab", "c") and ("a", "bc") differ
	}
	id := uuid.NewSHA1(space, name)
	const timeBytes, canonical = 6, 36
	if len(parts[0]) == canonical {
		if in, err := uuid.Parse(parts[0]); err == nil && (in.Version() == 7 || in.Version() == 8) {
			copy(id[:timeBytes], in[:])
			id[timeBytes] = 8<<4 | id[timeBytes]&0x0f
		}
	}
	return id.String()
}

// space is the name space of Derive. Changing it would change every derived id.
var space = uuid.MustParse("0f1e6c9a-6c1d-5d0e-9a51-6f2f6f0b7c11")
