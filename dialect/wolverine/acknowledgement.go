package wolverine

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
)

// Acknowledgement says that a message has been handled. InvokeAsync without a type of answer waits for one: a handler that has done its work
// calls bus.Reply(ctx, wolverine.Acknowledgement{}). A Request for an Acknowledgement asks a peer for one.
type Acknowledgement struct {
	// RequestID is the id of the message that was handled, and Timestamp when that was. Both are filled in when it is written.
	RequestID string    `json:"requestId"`
	Timestamp time.Time `json:"timestamp"`
}

// MessageType is Wolverine's name of the type; it needs no entry in Types.
func (Acknowledgement) MessageType() string { return ackType }

// guidBytes is how many bytes a Guid has.
const guidBytes = 16

// written is the acknowledgement as Wolverine writes it: the id as the bytes of a .NET Guid, whose first three groups are little endian, and the time as text.
func (a Acknowledgement) written() ([]byte, error) {
	if err := dialect.CheckGUID("id of the request", a.RequestID); err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(strings.ReplaceAll(a.RequestID, "-", ""))
	if err != nil {
		return nil, fmt.Errorf("the id of the request: %w", err)
	}
	return a.Timestamp.UTC().AppendFormat(swap(b), "2006-01-02T15:04:05.0000000-07:00"), nil
}

// swap turns the first three groups of a Guid round.
func swap(b []byte) []byte {
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5], b[6], b[7] = b[5], b[4], b[7], b[6]
	return b
}

// readAcknowledgement makes an acknowledgement in the form of Wolverine one that the codec JSON reads.
func readAcknowledgement(e *dialect.Envelope) error {
	if len(e.Body) < guidBytes {
		return fmt.Errorf("an Acknowledgement of %d bytes, fewer than the %d of an id", len(e.Body), guidBytes)
	}
	id := swap([]byte(string(e.Body[:guidBytes])))
	a := Acknowledgement{RequestID: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])}
	var err error
	if a.Timestamp, err = time.Parse(time.RFC3339, string(e.Body[guidBytes:])); err != nil {
		return errors.New("an Acknowledgement without a time")
	}
	e.ContentType = "application/json"
	e.Body, err = json.Marshal(a)
	return err
}
