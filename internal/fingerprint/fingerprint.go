// Package fingerprint finds out which failures are the same one: their texts differ only in
// ids, numbers and quoted data.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/foreign"
)

// Of is the fingerprint of parts that tell failures apart, in 16 hexadecimal digits. It is the
// same in each process.
func Of(parts ...string) string {
	hash := sha256.New()
	for _, part := range parts {
		hash.Write([]byte(part))
		hash.Write([]byte{0}) // so that ("ab", "c") and ("a", "bc") differ
	}
	const enough = 8
	return hex.EncodeToString(hash.Sum(nil)[:enough])
}

const (
	longestRead = 2 << 10 // how much of a text counts
	longestText = 200     // and how much of the result is kept
)

// Text is what the text of a failure has in common with others of its kind: "#" stands for
// each word with a digit, and "…" for quoted text. Of a panic, the function where it happened
// takes the place of the stack. It is one line of valid UTF-8 without control characters.
func Text(details string) string {
	text, stack, panicked := strings.Cut(details, foreign.StackMark)
	text = cut(normal(Line(cut(text, longestRead))), longestText)
	if place := ownFrame(stack); panicked && place != "" {
		return text + " @ " + place
	}
	return text
}

// Line is text in one line of valid UTF-8 without control characters. A terminal shows it and
// obeys nothing in it.
func Line(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1 // controls, and what turns the direction of writing around
		default:
			return r
		}
	}, strings.ToValidUTF8(text, "\uFFFD"))
	return strings.Join(strings.Fields(text), " ")
}

// cut shortens valid UTF-8 to at most so many bytes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

var (
	quotes  = regexp.MustCompile("\"[^\"]*\"|`[^`]*`|\\B'[^']*'") // \B: not the one in "don't"
	numbers = regexp.MustCompile(`[^\s:;,()\[\]{}=<>|"'` + "`" + `]*[0-9][^\s:;,()\[\]{}=<>|"'` + "`" + `]*`)
)

// normal replaces what differs between failures of one kind.
func normal(text string) string {
	return numbers.ReplaceAllString(quotes.ReplaceAllString(text, `"…"`), "#")
}

// ownFrame is the function in a stack that panicked and is neither the standard library's nor
// the bus's own: "shop.(*Shop).place".
func ownFrame(stack string) string {
	_, stack, _ = strings.Cut(stack, "\npanic(")
	for line := range strings.Lines(stack) {
		end := strings.LastIndexByte(line, '(') // of the arguments
		if end <= 0 || line[0] == '\t' || strings.HasPrefix(line, "created by ") || notOwn(line[:end]) {
			continue
		}
		return Line(line[strings.LastIndexByte(line[:end], '/')+1 : end])
	}
	return ""
}

// notOwn says whether a function belongs to the standard library, whose packages have no dot
// in the first part of their path, or to the bus. The packages without a path that are not
// the program's own are those that call functions of others.
func notOwn(name string) bool {
	if rest, ok := strings.CutPrefix(name, "github.com/harebus/harebus"); ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "/internal/")) && !strings.Contains(rest, "_test.") {
		return true
	}
	first, _, isPath := strings.Cut(name, "/")
	if isPath {
		return !strings.Contains(first, ".")
	}
	root, _, _ := strings.Cut(name, ".")
	switch root {
	case "runtime", "reflect", "sync", "sort", "slices", "maps", "strings", "bytes", "fmt", "errors", "iter", "context", "io", "strconv", "time", "testing", "panic", "goroutine":
		return true
	}
	return false
}
