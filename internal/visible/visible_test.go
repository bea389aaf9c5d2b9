package visible_test

import (
	"testing"

	"github.com/harebus/harebus/internal/visible"
)

func TestTexts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, word, line string }{
		{"plain", "orders", "orders", "orders"},
		{"umlaut", "größe", "größe", "größe"},
		{"empty", "", `""`, ""},
		{"space", "a b", `"a b"`, "a b"},
		{"quote", `a"b`, `"a\"b"`, `a"b`},
		{"escape", "a\x1b[2J", `"a\x1b[2J"`, `"a\x1b[2J"`},
		{"line", "a\nb", `"a\nb"`, `"a\nb"`},
		{"direction", "a\u202eb", `"a\u202eb"`, `"a\u202eb"`},
		{"no-break", "a\u00a0b", `"a\u00a0b"`, `"a\u00a0b"`},
		{"no-text", "a\xffb", `"a\xffb"`, `"a\xffb"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if word, line := visible.Word(test.text), visible.Line(test.text); word != test.word || line != test.line {
				t.Errorf("word %s, want %s; line %s, want %s", word, test.word, line, test.line)
			}
		})
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\tb\nc": "a\tb\nc", "\x1b[2J": `\x1b[2J`, "a\u202eb": `a\u202eb`, "\xff\xfe\u00a0": `\xff\xfe\u00a0`, "\uFFFD": "\uFFFD", "": "", "\r\n": "\\r\n",
	} {
		if got := visible.Text(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
