// Package ledger records messages from the call that sends them to the place where
// they end, and says whether the promises were kept.
//
// A run writes down every step as an [Event], with a [Recorder] or straight into a
// [Book]. When everything is quiet, what is still in queues is added by a plain
// reader, and [Book.Verdict] compares. The package uses neither a broker nor the
// library, so that a fault of the library cannot hide here.
package ledger

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Op is a step in the life of a message.
type Op string

// The steps. The outcomes of a send are those of Jepsen: ok, fail (certainly not in
// a queue) and unknown.
const (
	SendInvoke  Op = "send.invoke"  // a send begins; has Key, Seq, Sum and, if deferred, Due
	SendOK      Op = "send.ok"      // it was confirmed
	SendFail    Op = "send.fail"    // it failed, and the message is nowhere
	SendUnknown Op = "send.unknown" // it ended without an outcome
	Recv        Op = "recv"         // a handler has begun; has Attempt, Redelivered, Sum
	Effect      Op = "effect"       // its business effect took place
	Failed      Op = "failed"       // the handler failed, as it was meant to
	Copied      Op = "copied"       // a copy for later or for the error queue is published, and then the delivery is acknowledged; has Redelivered
	Drained     Op = "drained"      // found in a queue at the end; has Queue, Sum
	Parked      Op = "parked"       // found in the error queue at the end
	Discard     Op = "discard"      // the transaction or handler that sent it was rolled back
	Cancelled   Op = "cancelled"    // it was deferred, and cancelled for certain
	Crash       Op = "crash"        // Proc died or lost a connection; no ID
	FaultBegin  Op = "fault.begin"  // Err names it; no ID
	FaultEnd    Op = "fault.end"    // it is healed; no ID
	Left        Op = "left"         // something is left when all is stopped: Err says what; no ID
)

// Event is one step. Only T, Op and, for messages, ID are always there.
type Event struct {
	T           time.Time     `json:"t"`
	Proc        string        `json:"proc,omitempty"`
	Op          Op            `json:"op"`
	ID          string        `json:"id,omitempty"`
	Parent      string        `json:"parent,omitempty"` // the message whose handler sent this one
	Key         string        `json:"key,omitempty"`
	Seq         int           `json:"seq,omitempty"`
	Attempt     int           `json:"attempt,omitempty"`
	Redelivered bool          `json:"redelivered,omitempty"`
	Queue       string        `json:"queue,omitempty"`
	Sum         string        `json:"sum,omitempty"` // of the body
	Due         time.Time     `json:"due,omitzero"`
	Deadline    time.Time     `json:"deadline,omitzero"` // of the call that a send.invoke begins
	Pause       time.Duration `json:"pause,omitempty"`   // the least before the next attempt
	Err         string        `json:"err,omitempty"`
}

// Sum is the fingerprint of a body.
func Sum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// Recorder appends events to a file of its own, one write each, so that what was
// written before a SIGKILL is there after it.
type Recorder struct {
	mu   sync.Mutex // one write at a time
	file *os.File
	proc string
}

// NewRecorder opens path for appending, as process proc.
func NewRecorder(path, proc string) (*Recorder, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ledger: open: %w", err)
	}
	return &Recorder{file: f, proc: proc}, nil
}

// Record writes one event; the time and the process are filled in.
func (r *Recorder) Record(e Event) error {
	if e.T.IsZero() {
		e.T = time.Now()
	}
	if e.Proc == "" {
		e.Proc = r.proc
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("ledger: record: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ledger: record: %w", err)
	}
	return nil
}

// Close closes the file.
func (r *Recorder) Close() error { return r.file.Close() }

// ReadFile adds the events of a recorder's file to the book. A last line that
// was cut short by a SIGKILL is passed over.
func (b *Book) ReadFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("ledger: read: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ledger: read: %w", err)
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("ledger: read line %d: %w", n, err)
		}
		b.Record(e)
	}
}
