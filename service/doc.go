// Package service runs a harebus setup beside an HTTP server: probes for whoever
// watches the process, and the right order of starting and stopping. It needs
// nothing but net/http; programs that are built differently do without it.
package service
