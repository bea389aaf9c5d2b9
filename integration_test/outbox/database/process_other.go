//go:build !linux

package database

import "syscall"

// Only Linux can tie a child to its parent's life: elsewhere a server survives a test that is killed.
func boundToParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
