package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/harebus/harebus/internal/field"
)

// mostBytes is the largest file that Read accepts.
const mostBytes = 64 << 20

// Read reads a topology that was written as JSON, for example by
//
//	json.NewEncoder(os.Stdout).Encode(setup.Topology())
//
// and validates it. Numbers without a fraction become int64. A field that no topology
// has is an error, because a misspelled one would be lost.
func Read(r io.Reader) (Topology, error) {
	limited := &io.LimitedReader{R: r, N: mostBytes + 1}
	in := json.NewDecoder(limited)
	in.DisallowUnknownFields()
	in.UseNumber()
	var t Topology
	if err := in.Decode(&t); err != nil {
		return Topology{}, fmt.Errorf("topology: read JSON: %w", err)
	}
	switch _, err := in.Token(); {
	case limited.N <= 0:
		return Topology{}, fmt.Errorf("topology: read JSON: more than %d bytes", mostBytes)
	case !errors.Is(err, io.EOF):
		return Topology{}, errors.New("topology: read JSON: something follows the topology; a file holds one")
	}
	for i := range t.Exchanges {
		field.Numbers(t.Exchanges[i].Arguments)
	}
	for i := range t.Queues {
		field.Numbers(t.Queues[i].Arguments)
	}
	for i := range t.Bindings {
		field.Numbers(t.Bindings[i].Arguments)
	}
	return t, t.Validate()
}
