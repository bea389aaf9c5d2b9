//go:build !linux

package zstd_test

import (
	"testing"
	"time"
)

// cpu runs a function. How much time of a processor it takes is measured on Linux.
func cpu(_ *testing.T, fn func()) time.Duration {
	fn()
	return 0
}
