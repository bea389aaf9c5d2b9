package stream

import "strings"

// Matches says whether a topic matches a pattern, in which * is one word and # any number of them.
func Matches(pattern, topic string) bool {
	return match(strings.Split(pattern, "."), strings.Split(topic, "."))
}

func match(pattern, words []string) bool {
	for i, p := range pattern {
		switch {
		case p == "#":
			for skip := range len(words) - i + 1 {
				if match(pattern[i+1:], words[i+skip:]) {
					return true
				}
			}
			return false
		case i >= len(words), p != "*" && p != words[i]:
			return false
		}
	}
	return len(words) == len(pattern)
}

// Wants says whether a topic matches one of the patterns; none stand for all topics.
func Wants(patterns []string, topic string) bool {
	for _, p := range patterns {
		if Matches(p, topic) {
			return true
		}
	}
	return len(patterns) == 0
}
