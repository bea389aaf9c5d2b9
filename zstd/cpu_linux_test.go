package zstd_test

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// cpu is how much time of a processor a function takes, whatever else runs on the machine.
func cpu(t *testing.T, fn func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() time.Duration {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &used); err != nil {
			t.Fatal(err)
		}
		return time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	began := now()
	fn()
	return now() - began
}
