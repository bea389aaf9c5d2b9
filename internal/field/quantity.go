package field

import (
	"fmt"
	"time"
)

// Outside says that a number in a config is not between what it must be.
func Outside(name string, value, low, high int) []error {
	if value < low || value > high {
		return []error{fmt.Errorf("%s %d is not between %d and %d", name, value, low, high)}
	}
	return nil
}

// TooShort says that a duration in a config is less than it must be.
func TooShort(name string, d, least time.Duration) []error {
	if d < least {
		return []error{fmt.Errorf("%s %v is less than %v", name, d, least)}
	}
	return nil
}
