package topics

import "slices"

// Without is a list without the topics of another one. It changes the list.
func Without(all, topics []string) []string { return slices.DeleteFunc(all, In(topics)) }

// In returns a function that says whether a topic is in the list.
func In(list []string) func(topic string) bool {
	set := make(map[string]struct{}, len(list))
	for _, topic := range list {
		set[topic] = struct{}{}
	}
	return func(topic string) bool {
		_, ok := set[topic]
		return ok
	}
}
