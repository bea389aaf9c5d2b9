//go:build !linux

package main

import (
	"time"
)

// This program can read only on Linux how busy the rest of the machine is, and how
// much CPU time and memory the process has used.

func ownTime() time.Duration        { return 0 }
func machineTime() time.Duration    { return -1 }
func processTime(int) time.Duration { return -1 }
func familyTime(int) time.Duration  { return -1 }
func listener(int) int              { return 0 }
func resident() (now, peak int64)   { return 0, 0 }
func resetPeak()                    {}
