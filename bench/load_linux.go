package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of /proc: 1/USER_HZ, which is 100 on every Linux Go runs on.
const tick = 10 * time.Millisecond

// ownTime is the CPU time of this process.
func ownTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// machineTime is the CPU time used on the whole machine, and by its neighbours
// if it is a virtual one; negative if unknown.
func machineTime() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return -1
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	// cpu user nice system idle iowait irq softirq steal guest guest_nice
	const idle, iowait, steal = 4, 5, 8
	var total time.Duration
	for i, f := range strings.Fields(string(line)) {
		if i == 0 || i == idle || i == iowait || i > steal {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return -1
		}
		total += time.Duration(n) * tick
	}
	return total
}

// processTime is the CPU time of another process; negative if unknown.
func processTime(pid int) time.Duration {
	const utime, stime = 11, 12
	return times(pid, utime, stime)
}

// familyTime is the CPU time of another process and of its children, also of those that have ended; negative if unknown.
func familyTime(pid int) time.Duration {
	const utime, stime, cutime, cstime = 11, 12, 13, 14
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	total := times(pid, utime, stime, cutime, cstime)
	if err != nil || total < 0 {
		return -1
	}
	for child := range strings.FieldsSeq(string(children)) {
		if number, err := strconv.Atoi(child); err == nil {
			total += max(processTime(number), 0)
		}
	}
	return total
}

// times adds up fields of /proc/PID/stat, counted from the one behind the name; negative if unknown.
func times(pid int, fields ...int) (total time.Duration) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if pid == 0 || err != nil {
		return -1
	}
	_, rest, ok := strings.Cut(string(data), ") ") // behind the name, which may hold anything
	f := strings.Fields(rest)
	for _, i := range fields {
		if !ok || len(f) <= i {
			return -1
		}
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return -1
		}
		total += time.Duration(n) * tick
	}
	return total
}

// listener finds the process that listens on a TCP port of this machine; 0 if
// there is none, or it may not be looked at.
func listener(port int) int {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			const local, state, inode, listening = 1, 3, 9, "0A"
			if len(f) > inode && f[state] == listening && strings.HasSuffix(f[local], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[inode]+"]"] = true
			}
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is valid
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}

// resident is the memory of this process that is in RAM, now and at most since
// resetPeak, in bytes; 0 if unknown.
func resident() (now, peak int64) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, peak
}

// resetPeak lets the peak begin at what is resident now.
func resetPeak() {
	const peak = "5"
	_ = os.WriteFile("/proc/self/clear_refs", []byte(peak), 0) // without it the peak is that of the process
}
