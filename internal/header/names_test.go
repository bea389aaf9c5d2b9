package header_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/header"
)

// TestNames: the names are those that the library exports, each once.
func TestNames(t *testing.T) {
	t.Parallel()
	var got []string
	for i, v := 0, reflect.ValueOf(header.NamesOf("x.")); i < v.NumField(); i++ {
		got = append(got, v.Field(i).String())
	}
	want := []string{
		harebus.HeaderMessageID, harebus.HeaderCorrelationID, harebus.HeaderTimeSent, harebus.HeaderReplyTo, harebus.HeaderOriginatingAddress,
		harebus.HeaderIntent, harebus.HeaderMessageType, harebus.HeaderContentType, harebus.HeaderContentEncoding, harebus.HeaderDeferredTime,
		harebus.HeaderErrorRetries, harebus.HeaderErrorDetails, harebus.HeaderSourceQueue, harebus.HeaderHops, harebus.HeaderFirstFailed,
		harebus.HeaderLeftOut, harebus.HeaderRawHeaders, harebus.HeaderSignature, harebus.HeaderParking, harebus.HeaderReplyBy,
		harebus.HeaderFault, harebus.HeaderCausationID, harebus.HeaderEnvironment, harebus.HeaderDialect, harebus.HeaderKey, harebus.HeaderStreamOffset,
		harebus.HeaderReplayed, harebus.HeaderOriginalMessageID,
	}
	for i := range want {
		want[i] = "x." + want[i]
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
