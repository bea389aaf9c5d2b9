//go:build !linux

package rabbit

import "syscall"

// Only Linux can tie a child to its parent's life: elsewhere a node survives a test that is killed.
func boundToParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// awaitStopped trusts the signal: other systems do not show the state of threads.
func awaitStopped(int) error { return nil }
