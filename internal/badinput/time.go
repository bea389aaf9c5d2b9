package badinput

import (
	"fmt"
	"math"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

func counterCases() []Case {
	attempt := func(n int) func(*harebus.Message) error {
		return func(m *harebus.Message) error {
			if m.Attempt != n {
				return fmt.Errorf("attempt %d, want %d", m.Attempt, n)
			}
			return nil
		}
	}
	var cases []Case
	for name, value := range map[string]any{
		"text": "3", "text with spaces": " 3 ", "bytes": []byte("3"), "int8": int8(3), "uint8": uint8(3), "int16": int16(3),
		"uint16": uint16(3), "int32": int32(3), "uint32": uint32(3), "int64": int64(3),
	} {
		cases = append(cases, Case{Name: "05 counter " + name, Message: order1(prefixed("ErrorRetries"), value), Want: Handled, See: attempt(4)})
	}
	for name, value := range map[string]any{
		"abc": "abc", "empty": "", "-1": int32(-1), "text -1": "-1", "1e9": int32(1e9), "text 1e9": "1e9", "float": 3.0, "nil": nil,
		"table": amqp.Table{}, "array": []any{int32(1)}, "bool": true, "time": time.Unix(3, 0), "largest": int64(math.MaxInt64),
		"smallest": int64(math.MinInt64), "text of 30 digits": strings.Repeat("9", 30), "one too many": int32(6), "uint32 max": uint32(math.MaxUint32),
	} {
		cases = append(cases, Case{Name: "05 counter " + name, Message: order1(prefixed("ErrorRetries"), value), Want: Parked, Reason: "bad-retry-count"})
	}
	return append(cases, Case{
		Name: "05 counter of a replay", Want: Handled, See: attempt(1),
		Message: typed("Order", `{"ID":7}`, amqp.Table{prefixed("ErrorRetries"): int8(6), prefixed("SourceQueue"): "orders"}),
	}, Case{
		Name: "05 counter absurd of a replay", Want: Parked, Reason: "bad-retry-count",
		Message: typed("Order", `{"ID":7}`, amqp.Table{prefixed("ErrorRetries"): int32(1e9), prefixed("SourceQueue"): "orders"}),
	})
}

func timeCases() []Case {
	var cases []Case
	for _, bad := range []any{
		"garbage", "", "9999-12-31T23:59:59+00:00", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00", "0000-00-00T00:00:00", "1999-13-01T00:00:00",
		"1999-02-30T00:00:00", "1700000000", "13/32/1999 00:00:00", "Sat, 01 Jan 2000 00:00:00 GMT", long,
		int64(1), nil, true, amqp.Table{}, "\xff", "2000-01-01T00:00:00 +0000 UTC m=+1",
	} {
		cases = append(cases, Case{
			Name: fmt.Sprintf("06 deferred time %.40v", bad), Message: order1(prefixed("DeferredTime"), bad), Want: Parked, Reason: "bad-time",
		})
	}
	farAway := time.Now().AddDate(6, 0, 0).Format(time.RFC3339)
	cases = append(cases, Case{
		Name: "06 deferred time in six years", Message: order1(prefixed("DeferredTime"), farAway), Want: Parked, Reason: "bad-time",
	})
	for _, past := range []any{
		"1999-12-31T23:59:59+00:00", "1999-12-31T23:59:59.123456+00:00", "1999-12-31T23:59:59Z", "1999-12-31T23:59:59", "12/31/1999 23:59:59",
		"1999-12-31", "19991231T235959", "1999-12-31 23:59:59.5", "2000-01-01T01:00:00+02:00", time.Unix(10, 0), time.Unix(-10, 0), []byte("1999-12-31"),
	} {
		cases = append(cases, Case{
			Name: fmt.Sprintf("06 deferred time past %v", past), Message: order1(prefixed("DeferredTime"), past), Want: Handled,
		})
	}
	for _, sent := range []any{"garbage", "9999-12-31T23:59:59+00:00", "", int64(5), time.Unix(1<<40, 0)} {
		cases = append(cases, Case{Name: fmt.Sprintf("07 time sent %v", sent), Message: order1(prefixed("TimeSent"), sent), Want: Handled})
	}
	negative := plain(`{"ID":7}`)
	negative.Timestamp = time.Unix(-5, 0)
	failed := typed("Hopeless", `{}`, nil)
	failed.Timestamp = time.Unix(-5, 0)
	huge := plain(`{"ID":7}`)
	huge.Timestamp = time.Unix(math.MaxInt64, 0)
	return append(cases,
		Case{Name: "28 timestamp negative", Message: negative, Want: Handled},
		Case{Name: "28 timestamp negative, parked", Message: failed, Want: Parked, Reason: "no use"},
		Case{Name: "28 timestamp huge", Message: huge, Want: Handled})
}
