// Package topics compares topics with the patterns of topic exchanges, in which * is one word and # any number of words. An
// empty topic has no word, as for the broker. The time is at most the product of the numbers of words, whatever a pattern is.
package topics

import "strings"

// Match says whether a topic matches a pattern.
func Match(pattern, topic string) bool { return match(words(pattern), words(topic)) }

func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ".")
}

// match goes back to the last # only: what an earlier one could take as well, the last one can.
func match(pattern, words []string) bool {
	p, w := 0, 0
	hash, from := -1, 0
	for w < len(words) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, from = p, w
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == words[w]):
			p++
			w++
		case hash >= 0:
			from++
			p, w = hash+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}

// Covers says whether each topic that matches the pattern b matches the pattern a.
func Covers(a, b string) bool {
	of, in := words(a), words(b)
	// rest[j] says whether the words of a from i on cover those of b from j on.
	rest := make([]bool, len(in)+1)
	rest[len(in)] = true
	for i := len(of) - 1; i >= 0; i-- {
		next := make([]bool, len(in)+1)
		for j := len(in); j >= 0; j-- {
			switch some := j < len(in); {
			case of[i] == "#":
				next[j] = rest[j] || some && next[j+1]
			case some && in[j] != "#" && (of[i] == "*" || of[i] == in[j]):
				next[j] = rest[j+1]
			}
		}
		rest = next
	}
	return rest[0]
}
