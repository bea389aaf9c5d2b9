package order

import "time"

// Parked is a key whose messages are in the parking queue.
type Parked struct {
	Key string `json:"key"`
	// Held says that the first message waits for an operator. Else it is handled again, at the time Due.
	Held bool      `json:"held"`
	Due  time.Time `json:"due,omitzero"`
	// Waiting is how many messages are parked, the first one included.
	Waiting int `json:"waiting"`
	// ID, Type, Failures and Error are those of the first one: Failures is how often it has failed, and Since when
	// it did so for the first time.
	ID       string    `json:"id"`
	Type     string    `json:"type,omitempty"`
	Failures int       `json:"failures"`
	Since    time.Time `json:"since,omitzero"`
	Error    string    `json:"error,omitempty"`
}
