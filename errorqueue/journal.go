package errorqueue

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// entry is a line of a journal.
type entry struct {
	Run    string `json:"run,omitempty"`
	Action string `json:"action,omitempty"`
	Queue  string `json:"queue,omitempty"`
	To     string `json:"to,omitempty"`
	// Body is a hash of the new body of an edit.
	Body string `json:"body,omitempty"`
	// Sent are messages that are about to be sent, Confirmed those that are stored, and Left
	// those that are not. Each is the key of a message and its id.
	Sent      []string `json:"sent,omitempty"`
	Confirmed []string `json:"confirmed,omitempty"`
	Left      []string `json:"left,omitempty"`
	// End says that the broker has removed all that was confirmed.
	End bool `json:"end,omitempty"`
}

// journal keeps on disk what has happened to each message, in lines of JSON. What was sent and
// not answered when the process ended may be there twice.
type journal struct {
	file  *os.File
	known map[string]state
	// recent are those that were confirmed last. The broker may not have removed them: it has
	// those that were confirmed before, because it has confirmed later ones.
	recent []string
}

type state int8

const (
	stateSent state = iota + 1
	stateConfirmed
)

// name identifies a message in a journal.
func (c *Content) name() string { return hex.EncodeToString(c.key[:]) + " " + c.ID() }

// openJournal opens a journal for an action, and continues one that is there. An empty path is
// no journal.
func openJournal(path string, first entry) (*journal, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // its methods do nothing then
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &journal{file: file, known: map[string]state{}}
	if err = j.read(first); err == nil {
		err = j.write(first)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), file.Close())
	}
	return j, nil
}

// read reads what an interrupted run has written. The last line may be cut off; then nothing
// of it was done.
func (j *journal) read(first entry) error {
	lines, begun := bufio.NewReader(j.file), false
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !begun && len(line) > 0 && !begins(line) {
			return errNoJournal
		}
		if err != nil {
			if len(line) > 0 {
				_, err = j.file.WriteString("\n")
				return err
			}
			return nil
		}
		var e entry
		if json.Unmarshal(line, &e) != nil {
			continue // it was cut off
		}
		begun = true
		if e.Action != "" && (e.Action != first.Action || e.Queue != first.Queue || e.To != first.To) {
			return fmt.Errorf("line %d is of another action: %s of %q to %q", number, e.Action, e.Queue, e.To)
		}
		if e.Action != "" && e.Body != first.Body {
			return fmt.Errorf("line %d is of an edit with another body", number)
		}
		j.note(e)
	}
}

var errNoJournal = errors.New("it is no journal of an action")

// begins says whether a line can be the first of a journal. It may be cut off; then the next line must begin one, too.
func begins(line []byte) bool {
	const start = `{"run":"`
	var e entry
	if json.Unmarshal(line, &e) == nil {
		return e.Action != ""
	}
	line = bytes.TrimSpace(line)
	return strings.HasPrefix(start, string(line[:min(len(line), len(start))]))
}

func (j *journal) note(e entry) {
	if e.End { // a message that is in the queue after this was put there anew
		clear(j.known)
	}
	for _, name := range e.Sent {
		j.known[name] = stateSent
	}
	for _, name := range e.Confirmed {
		j.known[name] = stateConfirmed
	}
	if len(e.Confirmed) > 0 || e.End {
		j.recent = e.Confirmed
	}
	for _, name := range e.Left {
		delete(j.known, name)
	}
}

func (j *journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// confirmed says whether an interrupted run has stored this message. A message without ErrorId
// is never taken for stored: one that has failed again would look the same.
func (j *journal) confirmed(c *Content) bool {
	return j != nil && c.id != uuid.Nil && j.known[c.name()] == stateConfirmed
}

// unclear says whether an interrupted run may have stored this message.
func (j *journal) unclear(c *Content) bool { return j != nil && j.known[c.name()] != 0 }

// sent notes messages that are about to be stored.
func (j *journal) sent(steps []*step) error {
	if j == nil {
		return nil
	}
	var e entry
	for _, s := range steps {
		if s.content != nil {
			e.Sent = append(e.Sent, s.content.name())
		}
	}
	if len(e.Sent) == 0 {
		return nil
	}
	return j.write(e)
}

// answered notes what has become of them.
func (j *journal) answered(steps []*step, errs []error) error {
	if j == nil {
		return nil
	}
	var e entry
	for i, s := range steps {
		switch {
		case s.content == nil:
		case errs[i] == nil:
			e.Confirmed = append(e.Confirmed, s.content.name())
		case left(errs[i]):
			e.Left = append(e.Left, s.content.name())
		}
	}
	if len(e.Confirmed)+len(e.Left) == 0 {
		return nil
	}
	return j.write(e)
}

// close closes the journal. end says that the action has come to its end.
func (j *journal) close(end bool) error {
	if j == nil {
		return nil
	}
	var err error
	if end {
		err = j.write(entry{End: true})
	}
	if err = errors.Join(err, j.file.Sync(), j.file.Close()); err != nil {
		return fmt.Errorf("close the journal: %w", err)
	}
	return nil
}

// Unclear reads the journal of an interrupted action, and returns the ids of the messages
// that may be both in the error queue and where they were moved to.
func Unclear(path string) (ids []string, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("errorqueue: read the journal: %w", err)
	}
	j := &journal{known: map[string]state{}}
	begun := false
	for line := range bytes.Lines(content) {
		if !begun && !begins(line) {
			return nil, fmt.Errorf("errorqueue: read the journal %s: %w", path, errNoJournal)
		}
		var e entry
		if json.Unmarshal(line, &e) == nil { // the last one may be cut off
			begun = true
			j.note(e)
		}
	}
	names := slices.Clone(j.recent)
	for name, s := range j.known {
		if s == stateSent {
			names = append(names, name)
		}
	}
	for _, name := range names {
		_, id, _ := strings.Cut(name, " ")
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
