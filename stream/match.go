package stream

import "github.com/harebus/harebus/internal/topics"

// Matches says whether a topic matches a pattern, in which * is one word and # any number of them.
func Matches(pattern, topic string) bool { return topics.Match(pattern, topic) }

// Wants says whether a topic matches one of the patterns; none stand for all topics.
func Wants(patterns []string, topic string) bool {
	for _, p := range patterns {
		if Matches(p, topic) {
			return true
		}
	}
	return len(patterns) == 0
}
