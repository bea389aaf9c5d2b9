// Package service runs a harebus setup beside an HTTP server: it has probes for an
// orchestrator, and starts and stops both in the right order. It needs only
// net/http; a program with another structure need not use it.
package service
