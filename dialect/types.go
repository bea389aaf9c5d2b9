package dialect

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Types are the wire names of types, and what the peer calls them: {"PlaceOrder": "Acme.Orders.PlaceOrder"}.
type Types map[string]string

// Foreign is the peer's name of a type. A type that is not in the map is an error.
func (t Types) Foreign(name string) (string, error) {
	if foreign, ok := t[name]; ok {
		return foreign, nil
	}
	if name == "" {
		return "", errors.New("the message has no type, and the peer needs one: give the Go type a method MessageType, or pass WithType")
	}
	return "", fmt.Errorf("the type %.80q is not in the Types of the dialect: add it with the name that the peer knows", name)
}

// Own are the wire names by the names of the peer. Names that are empty, or there twice, are an error.
func (t Types) Own() (map[string]string, error) {
	own := make(map[string]string, len(t))
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(t)) {
		foreign := t[name]
		other, twice := own[foreign]
		switch {
		case name == "" || foreign == "":
			faults = append(faults, fmt.Errorf("Types[%.80q] is %.80q: neither name may be empty", name, foreign))
		case twice:
			faults = append(faults, fmt.Errorf("Types has %.80q twice, for %.80q and %.80q: a received message can be one of them only", foreign, other, name))
		}
		own[foreign] = name
	}
	return own, errors.Join(faults...)
}
