package field

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Quote makes any text safe and short for an error or a log.
func Quote(text string) string {
	const shown = 80
	if len(text) > shown {
		return fmt.Sprintf("%q…", text[:shown])
	}
	return fmt.Sprintf("%q", text)
}

// Text returns a header value that is valid UTF-8 text.
func Text(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, utf8.ValidString(v)
	case []byte:
		return string(v), utf8.Valid(v)
	default:
		return "", false
	}
}

// Said is a header value that should be text, as a string: "" if it is neither that nor bytes, by which some clients write text.
// It may be invalid UTF-8.
func Said(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// Printed is Said, and a boolean or a whole number as text, because readers in .NET print what is no text.
func Printed(value any) string {
	switch value.(type) {
	case bool, int8, uint8, int16, uint16, int32, uint32, int64:
		return fmt.Sprint(value)
	}
	return Said(value)
}

// ParseCount reads the count of a header as any peer may have written it: any
// integer width, or decimal text.
func ParseCount(value any) (int, error) {
	const most = 1_000_000
	var n int64
	switch v := value.(type) {
	case int8:
		n = int64(v)
	case uint8:
		n = int64(v)
	case int16:
		n = int64(v)
	case uint16:
		n = int64(v)
	case int32:
		n = int64(v)
	case uint32:
		n = int64(v)
	case int64:
		n = v
	case string:
		parsed, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s is not a count", Quote(v))
		}
		n = parsed
	case []byte:
		return ParseCount(string(v))
	default:
		return 0, fmt.Errorf("a %T is not a count", value)
	}
	if n < 0 || n > most {
		return 0, fmt.Errorf("%d is out of range", n)
	}
	return int(n), nil
}

// CheckShort refuses what is no short string of AMQP.
func CheckShort(name, value string) error {
	if len(value) > MaxShortString || !utf8.ValidString(value) {
		return fmt.Errorf("%s %s is longer than %d bytes or not valid UTF-8", name, Quote(value), MaxShortString)
	}
	return nil
}
