package header

import (
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// The headers that describe how a message came into the error queue, without their prefix.
// Package errorqueue says what they mean.
const (
	ErrorID        = "ErrorId"
	ErrorKind      = "ErrorKind"
	ErrorGroup     = "ErrorGroup"
	Attempts       = "Attempts"
	Host           = "Host"
	ServiceVersion = "ServiceVersion"
	Replays        = "Replays"
	EditedFrom     = "EditedFrom"
)

// maxAttempts is how many times of failed attempts travel with a message.
const maxAttempts = 10

// NoteAttempt adds the time of a failed attempt. first says that it is the first one: what is
// there then is from before somebody moved the message out of an error queue.
func (d *Dialect) NoteAttempt(headers amqp.Table, at time.Time, first bool) {
	var times []any
	if earlier, ok := headers[d.Prefix+Attempts].([]any); ok && !first {
		times = slices.Clone(earlier[max(0, len(earlier)-maxAttempts+1):])
	}
	headers[d.Prefix+Attempts] = append(times, at.UTC().Truncate(time.Second))
}

// DescribeParking says which parking of the message this is, and of what kind.
func (d *Dialect) DescribeParking(headers amqp.Table, id, kind, group string) {
	host, version := whoParks()
	if build, ok := field.Text(d.Always[d.Prefix+"Build"]); ok {
		version = build
	}
	for name, text := range map[string]string{ErrorID: id, ErrorKind: kind, ErrorGroup: group, Host: host, ServiceVersion: version} {
		if text != "" && len(text) <= field.MaxShortString {
			headers[d.Prefix+name] = text
		}
	}
}

// whoParks is this machine and the version of its program, which is unknown in a working copy.
var whoParks = sync.OnceValues(func() (host, version string) {
	host, _ = os.Hostname() // without a name it is unknown
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "(devel)" {
		version = build.Main.Version
	}
	return host, version
})

// undescribe removes what only describes a parking, and returns how many bytes that were.
func (d *Dialect) undescribe(headers amqp.Table) (size, count int) {
	for _, name := range []string{ErrorKind, ErrorGroup, Attempts, Host, ServiceVersion} {
		key := d.Prefix + name
		if value, ok := headers[key]; ok {
			size += field.EntrySize(key, value)
			count++
			delete(headers, key)
		}
	}
	return size, count
}
