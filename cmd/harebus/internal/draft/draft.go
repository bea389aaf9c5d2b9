// Package draft shows the body of a message to somebody who edits it: in the field of a form, and as the difference to what
// it was before.
package draft

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Draft is a body as somebody can edit it in a field of a form. Browsers send the ends of lines in one form, whatever
// they were, and show neither control characters nor those that turn the direction of text. So a draft has none of
// these: in JSON they are written as escapes, which means the same there, and any other body is base64.
type Draft struct {
	Text     string
	Base64   bool
	Indented bool // it is JSON on one line; that is shown on many, and sent on one
	Escaped  int  // how many characters are written as escapes
}

const longestIndented = 64 << 10

// Of is the draft of a body.
func Of(body []byte) Draft {
	var d Draft
	text := strings.TrimPrefix(string(body), "\ufeff") // .NET writes this mark, and JSON needs none
	switch {
	case utf8.ValidString(text) && json.Valid([]byte(text)):
		if d.Text, d.Indented = Indented([]byte(text)); !d.Indented {
			d.Text = text
		}
		d.Text, d.Escaped = escaped(d.Text)
	case utf8.Valid(body) && !strings.ContainsFunc(string(body), hidden):
		d.Text = text
	default:
		d.Text, d.Base64 = wrapped(base64.StdEncoding.EncodeToString(body)), true
	}
	return d
}

// Indented is JSON on several lines, if it is on one and would gain by that.
func Indented(body []byte) (string, bool) {
	var compact, lines bytes.Buffer
	if len(body) > longestIndented || !utf8.Valid(body) || json.Compact(&compact, body) != nil || !bytes.Equal(compact.Bytes(), body) || json.Indent(&lines, body, "", "  ") != nil {
		return "", false
	}
	return lines.String(), lines.Len() > len(body)
}

// hidden says whether a field of a form does not show a character, or does not send it as it was.
func hidden(r rune) bool { return r != '\n' && r != '\t' && !strconv.IsPrint(r) }

// escaped writes what is hidden in JSON as escapes, and says how many there are. Outside of strings there is only the
// carriage return, which is no part of a value.
func escaped(text string) (string, int) {
	if !strings.ContainsFunc(text, hidden) {
		return text, 0
	}
	var b strings.Builder
	n := 0
	for _, r := range text {
		switch {
		case r == '\r':
		case !hidden(r):
			b.WriteRune(r)
		default:
			n++
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
	}
	return b.String(), n
}

func wrapped(text string) string {
	const width = 76
	var b strings.Builder
	for len(text) > width {
		b.WriteString(text[:width] + "\n")
		text = text[width:]
	}
	return b.String() + text
}

// Body is the body that somebody means who has typed a text.
func (d *Draft) Body(typed string) ([]byte, error) {
	typed = strings.ReplaceAll(typed, "\r\n", "\n") // so forms send each end of a line
	switch {
	case d.Base64:
		body, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(typed), ""))
		if err != nil {
			return nil, fmt.Errorf("the new body is not base64, as it is shown here: %w", err)
		}
		return body, nil
	case !utf8.ValidString(typed):
		return nil, errors.New("the new body is not UTF-8")
	case d.Indented:
		var compact bytes.Buffer
		if json.Compact(&compact, []byte(typed)) == nil {
			return compact.Bytes(), nil
		}
	}
	return []byte(typed), nil
}
