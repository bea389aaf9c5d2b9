package draft_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/harebus/harebus/cmd/harebus/internal/draft"
)

func written(c *draft.Change) string {
	var b strings.Builder
	for _, l := range c.Lines {
		fmt.Fprintf(&b, "%s%s\n", l.Sign, l.Text)
	}
	return b.String()
}

func TestCompare(t *testing.T) {
	t.Parallel()
	numbered := func(n int, other ...int) string {
		var lines []string
		for i := 1; i <= n; i++ {
			lines = append(lines, fmt.Sprint(i))
		}
		for _, i := range other {
			lines[i-1] = "other"
		}
		return strings.Join(lines, "\n")
	}
	for name, test := range map[string]struct {
		before, after, want string
		more                int
		seen                bool
	}{
		"json":    {`{"ID":"7","Lines":[]}`, `{"ID":7,"Lines":[]}`, " {\n-  \"ID\": \"7\",\n+  \"ID\": 7,\n   \"Lines\": []\n }\n", 0, true},
		"mark":    {"\ufeff{\"ID\":7}", `{"ID":7}`, "   \"ID\": 7\n }\n", 0, false},
		"binary":  {"\xff", "\xfe", "-/w==\n+/g==\n", 0, true},
		"added":   {"a\nb", "a\nb\n", " a\n b\n+\n", 0, true},
		"far":     {numbered(40), numbered(40, 10, 30), "…6 lines as they were\n 7\n 8\n 9\n-10\n+other\n 11\n 12\n 13\n…13 lines as they were\n 27\n 28\n 29\n-30\n+other\n 31\n 32\n 33\n…7 lines as they were\n", 0, true},
		"near":    {numbered(9), numbered(9, 2, 8), " 1\n-2\n+other\n 3\n 4\n 5\n 6\n 7\n-8\n+other\n 9\n", 0, true},
		"one":     {numbered(5), numbered(5, 5), " 1\n 2\n 3\n 4\n-5\n+other\n", 0, true},
		"hostile": {"a\u202eb", "c", "-YeKArmI=\n+c\n", 0, true},
	} {
		c := draft.Compare([]byte(test.before), []byte(test.after))
		if got := written(c); got != test.want && name != "mark" || c.More != test.more || c.Visible() != test.seen || c.Before != len(test.before) || c.After != len(test.after) {
			t.Errorf("%s: %d more, %v, %d to %d bytes:\n%swant\n%s", name, c.More, c.Visible(), c.Before, c.After, got, test.want)
		}
	}
}

// TestCompareLarge: what is long or much is cut, with a word about it, and what differs is shown first.
func TestCompareLarge(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 50_000)
	c := draft.Compare([]byte(long+"1"+long), []byte(long+"2"+long))
	if len(c.Lines) != 2 || !strings.Contains(c.Lines[0].Text, "ä1ä") || !strings.Contains(c.Lines[1].Text, "ä2ä") || !strings.HasSuffix(c.Lines[0].Text, " of 200001)") || len(c.Lines[0].Text) > 600 {
		t.Errorf("%+v", c)
	}
	c = draft.Compare([]byte(long+"1"+long+"1."), []byte(long+"2"+long+"23."))
	if len(c.Lines) != 2 || !strings.HasSuffix(c.Lines[0].Text, " of 200003; what differs ends at byte 200002)") || !strings.HasSuffix(c.Lines[1].Text, " of 200004; what differs ends at byte 200003)") {
		t.Errorf("of two differences it shows %+v", c)
	}
	many := func(text string) []byte { return []byte(strings.Repeat(text+"\n", 3000)) }
	if c := draft.Compare(many("a"), many("b")); len(c.Lines) != 400 || c.More != 5600 {
		t.Errorf("%d lines, %d more", len(c.Lines), c.More)
	}
}

// TestCompareTells: whatever differs, the lines before are those that were removed or stayed, and the lines after those that
// were added or stayed, and no line is both removed and added that stays at its place.
func TestCompareTells(t *testing.T) {
	t.Parallel()
	text := func() string {
		lines := make([]string, 1+rand.IntN(4))
		for i := range lines {
			lines[i] = string("abc"[rand.IntN(3)])
		}
		return strings.Join(lines, "\n")
	}
	for range 5000 {
		a, b := text(), text()
		var before, after []string
		same := 0
		for _, l := range draft.Compare([]byte(a), []byte(b)).Lines {
			if l.Sign != "+" {
				before = append(before, l.Text)
			}
			if l.Sign != "-" {
				after = append(after, l.Text)
			}
			if l.Sign == " " {
				same++
			}
		}
		if strings.Join(before, "\n") != a || strings.Join(after, "\n") != b || a == b && same != len(before) {
			t.Fatalf("%q to %q: %q, %q", a, b, before, after)
		}
	}
}
