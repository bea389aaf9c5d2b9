package coding

import (
	"fmt"
	"reflect"
)

// Faults are those of the compressions of Config.Payload.Compress: for all messages, by type, and those that can be read.
func Faults[C interface{ Coding() string }](with C, types map[string]C, accept []C) (faults []error) {
	names := map[string]C{}
	check := func(where string, one C) {
		name := one.Coding()
		if err := Valid(name); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", where, err))
		}
		if other, ok := names[name]; ok && !same(one, other) {
			faults = append(faults, fmt.Errorf("%s: there is another Compression for %q: use one value, which can read all bodies of the coding", where, name))
		}
		names[name] = one
	}
	if any(with) != nil {
		check("Payload.Compress.With", with)
	}
	for name, one := range types {
		if any(one) != nil {
			check(fmt.Sprintf("Payload.Compress.Types[%q]", name), one)
		}
	}
	for i, one := range accept {
		if any(one) == nil {
			faults = append(faults, fmt.Errorf("Payload.Compress.Accept[%d] is nil", i))
			continue
		}
		check(fmt.Sprintf("Payload.Compress.Accept[%d]", i), one)
	}
	return faults
}

// same says whether two compressions are one.
func same(a, b any) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}
