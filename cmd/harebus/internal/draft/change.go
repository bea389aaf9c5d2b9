package draft

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Line is a line of a difference: removed (-), added (+), as it was ( ), or a word about what is left out (…).
type Line struct{ Sign, Text string }

const (
	removed = "-"
	added   = "+"
	same    = " "
	left    = "…"
)

// Change is what an edit changes in a body.
type Change struct {
	// Lines are those that differ, with some around them.
	Lines []Line
	// More is how many further lines differ.
	More int
	// Before and After are how many bytes the bodies have.
	Before, After int
}

// Visible says whether a line differs. What is spelled in another way, or is white space between values of JSON, need not
// be seen.
func (c *Change) Visible() bool {
	return slices.ContainsFunc(c.Lines, func(l Line) bool { return l.Sign == removed || l.Sign == added })
}

const (
	around      = 3       // lines that are shown beside those that differ
	mostLines   = 400     // that are shown
	mostPairs   = 1 << 20 // of lines that are compared; beyond it all are removed and added
	longestLine = 500     // bytes that are shown of a line
)

// Compare says what differs between two bodies, as their drafts show them.
func Compare(before, after []byte) *Change {
	a, b := strings.Split(Of(before).Text, "\n"), strings.Split(Of(after).Text, "\n")
	shorter, first, last := min(len(a), len(b)), 0, 0
	for first < shorter && a[first] == b[first] {
		first++
	}
	for last < shorter-first && a[len(a)-1-last] == b[len(b)-1-last] {
		last++
	}
	head, tail := a[:first], a[len(a)-last:]
	middle, more := between(a[first:len(a)-last], b[first:len(b)-last])
	lines := slices.Concat(
		told(head[:max(0, first-around)]), signed(same, head[max(0, first-around):]),
		fold(middle),
		signed(same, tail[:min(around, last)]), told(tail[min(around, last):]),
	)
	c := &Change{Lines: lines, More: more, Before: len(before), After: len(after)}
	if len(lines) > mostLines {
		c.Lines = lines[:mostLines]
		for _, l := range lines[mostLines:] {
			if l.Sign == removed || l.Sign == added {
				c.More++
			}
		}
	}
	clip(c.Lines)
	return c
}

// signed are lines with a sign.
func signed(sign string, texts []string) []Line {
	lines := make([]Line, len(texts))
	for i, text := range texts {
		lines[i] = Line{sign, text}
	}
	return lines
}

// told are lines as they were, or a word about how many: one alone takes no more room than that.
func told(texts []string) []Line {
	if len(texts) <= 1 {
		return signed(same, texts)
	}
	return gap(len(texts))
}

func gap(n int) []Line { return []Line{{left, fmt.Sprintf("%d lines as they were", n)}} }

// between compares lines: as few as possible are removed and added. Of those that are too many for that it returns some, and how many more there are.
func between(a, b []string) (lines []Line, more int) {
	if len(a)*len(b) > mostPairs {
		some, others := min(len(a), mostLines/2), min(len(b), mostLines/2)
		return slices.Concat(signed(removed, a[:some]), signed(added, b[:others])), len(a) - some + len(b) - others
	}
	common := make([][]int32, len(a)+1) // how many lines a[i:] and b[j:] have in common, in their order
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			lines = append(lines, Line{same, a[i]})
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			lines = append(lines, Line{removed, a[i]})
			i++
		default:
			lines = append(lines, Line{added, b[j]})
			j++
		}
	}
	return slices.Concat(lines, signed(removed, a[i:]), signed(added, b[j:])), 0
}

// fold leaves out what is far from the lines that differ.
func fold(lines []Line) (folded []Line) {
	for len(lines) > 0 {
		n := slices.IndexFunc(lines, func(l Line) bool { return l.Sign != same })
		if n < 0 {
			n = len(lines)
		}
		if n > 2*around+1 {
			folded = slices.Concat(folded, lines[:around], gap(n-2*around), lines[n-around:n])
		} else {
			folded = append(folded, lines[:n]...)
		}
		if lines = lines[n:]; len(lines) > 0 {
			folded, lines = append(folded, lines[0]), lines[1:]
		}
	}
	return folded
}

// clip cuts long lines to what differs first between a removed line and the added one in its place.
func clip(lines []Line) {
	run := func(from int, sign string) int {
		to := from
		for to < len(lines) && lines[to].Sign == sign {
			to++
		}
		return to
	}
	for i := 0; i < len(lines); {
		middle := run(i, removed)
		end := max(run(middle, added), i+1) // one line if that stayed
		pairs := min(middle-i, end-middle)
		for k := range pairs {
			one, other := &lines[i+k], &lines[middle+k]
			at, alike := difference(one.Text, other.Text)
			one.Text, other.Text = short(one.Text, at, len(one.Text)-alike), short(other.Text, at, len(other.Text)-alike)
		}
		for k := i + pairs; k < end; k++ {
			if k < middle || k >= middle+pairs { // it has no counterpart
				lines[k].Text = short(lines[k].Text, 0, 0)
			}
		}
		i = end
	}
}

// difference is where two texts differ first, and how many bytes at their ends are alike.
func difference(a, b string) (at, alike int) {
	shorter := min(len(a), len(b))
	for at < shorter && a[at] == b[at] {
		at++
	}
	for alike < shorter-at && a[len(a)-1-alike] == b[len(b)-1-alike] {
		alike++
	}
	return at, alike
}

// short is a text, or the part of it that begins before a byte, with a word about the rest, and about where it differs for the last time if that is not in the part.
func short(text string, at, last int) string {
	if len(text) <= longestLine {
		return text
	}
	from := max(0, min(at-longestLine/4, len(text)-longestLine))
	to := from + longestLine
	for !utf8.RuneStart(text[from]) {
		from--
	}
	for to < len(text) && !utf8.RuneStart(text[to]) {
		to++
	}
	further := ""
	if last > to {
		further = fmt.Sprintf("; what differs ends at byte %d", last)
	}
	return fmt.Sprintf("%s… (bytes %d to %d of %d%s)", text[from:to], from+1, to, len(text), further)
}
