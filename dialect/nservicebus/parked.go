package nservicebus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/harebus/harebus/dialect"
)

// What NServiceBus writes into a message for the error queue, and ServiceControl and ServicePulse read.
const (
	failedQ         = prefix + "FailedQ"
	exceptionInfo   = prefix + "ExceptionInfo."
	timeOfFailure   = prefix + "TimeOfFailure"
	processedBy     = prefix + "ProcessingEndpoint"
	processedOn     = prefix + "ProcessingMachine"
	hostID          = "$.diagnostics.hostid"
	hostDisplayName = "$.diagnostics.hostdisplayname"
)

// Parked are the headers by which ServiceControl takes a parked message for one of a failed endpoint, whose name is that of the queue. The exception has
// the reason code for its type.
func (d *Dialect) Parked(f dialect.Failure) map[string]any {
	const bytesOfGUID = 16
	sum := sha256.Sum256([]byte(d.machine)) // the same at each start, as there
	return map[string]any{
		failedQ: f.Queue, timeOfFailure: writeTime(f.At), exceptionInfo + "ExceptionType": f.Kind, exceptionInfo + "Message": short(f.Text), exceptionInfo + "Source": "harebus",
		exceptionInfo + "StackTrace": short(cmp.Or(f.Stack, f.Text)), // ServicePulse makes groups by it
		processedBy:                  f.Queue, processedOn: d.machine, hostID: hex.EncodeToString(sum[:bytesOfGUID]), hostDisplayName: d.machine,
	}
}

// short is the beginning of a text: all of it is in the header of harebus.
func short(text string) string {
	const most = 1 << 10
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
