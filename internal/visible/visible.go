// Package visible writes texts of messages so that nothing obeys them: a terminal does nothing
// but show them, and in a line they cannot look like something else.
package visible

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Word is a word as it is if it is nothing but visible text, and quoted otherwise.
func Word(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r == ' ' || r == '"' || hidden(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// Line is text as it is if all of it is visible, and quoted otherwise.
func Line(text string) string {
	if strings.ContainsFunc(text, hidden) {
		return strconv.Quote(text)
	}
	return text
}

// Text is text of several lines in which each character that is not visible is written as in Go.
func Text(text string) string {
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == '\n' || r == '\t' || !hidden(r):
			b.WriteRune(r)
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// hidden says whether a character is invisible, controls a terminal or the direction of text, or
// stands for bytes that are no character.
func hidden(r rune) bool { return r == '\uFFFD' || !strconv.IsPrint(r) }
