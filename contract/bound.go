package contract

import (
	"math/big"
	"slices"
)

// bound is the end of a range of numbers.
type bound struct {
	at   *big.Rat
	open bool // at itself is outside
}

// Each end of a range has two keywords: the number itself is inside, or outside.
var (
	lower = []string{"minimum", "exclusiveMinimum"}
	upper = []string{"maximum", "exclusiveMaximum"}
)

// within says, of a keyword that is one end of a range of numbers, whether all numbers of a are on the inner side of that end of
// b. The two keywords for one end are read together: minimum 1 and exclusiveMinimum 0 are the same for an integer.
func within(keyword string, a, b alternative) bool {
	ends, direction := lower, 1
	if slices.Contains(upper, keyword) {
		ends, direction = upper, -1
	} else if !slices.Contains(lower, keyword) {
		return false
	}
	was, known := boundOf(a, ends, direction)
	is, both := boundOf(b, ends, direction)
	return known && both && was.at != nil && is.at != nil && !is.inside(was, direction)
}

// boundOf reads one end of a range; direction is 1 for the lower one and -1 for the upper one. It is not known if a number is none,
// or too long.
func boundOf(a alternative, keywords []string, direction int) (end bound, known bool) {
	for i, name := range keywords {
		value, there := a.schema[name]
		if !there {
			continue
		}
		at, ok := number(value)
		if !ok {
			return bound{}, false
		}
		one := bound{at, i == 1}
		if a.kind == "integer" {
			one = one.whole(direction)
		}
		if end.at == nil || one.inside(end, direction) {
			end = one
		}
	}
	return end, true
}

// whole is the same end for integers: the first integer that is inside.
func (b bound) whole(direction int) bound {
	n := new(big.Int).Quo(b.at.Num(), b.at.Denom()) // cuts off what is behind the point
	at := new(big.Rat).SetInt(n)
	if beyond := at.Cmp(b.at) * direction; beyond < 0 || beyond == 0 && b.open {
		at.Add(at, big.NewRat(int64(direction), 1))
	}
	return bound{at: at}
}

// inside says whether an end excludes numbers that another one includes.
func (b bound) inside(other bound, direction int) bool {
	order := b.at.Cmp(other.at) * direction
	return order > 0 || order == 0 && b.open && !other.open
}
