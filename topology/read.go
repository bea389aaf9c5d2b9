package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
		numbers(t.Exchanges[i].Arguments)
	}
	for i := range t.Queues {
		numbers(t.Queues[i].Arguments)
	}
	for i := range t.Bindings {
		numbers(t.Bindings[i].Arguments)
	}
	return t, t.Validate()
}

// numbers turns the texts of numbers in a table into numbers.
func numbers(arguments map[string]any) {
	for key, value := range arguments {
		arguments[key] = number(value)
	}
}

func number(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String() // validate says what is wrong with it
		}
		return f
	case map[string]any:
		numbers(v)
	case []any:
		for i := range v {
			v[i] = number(v[i])
		}
	}
	return value
}
