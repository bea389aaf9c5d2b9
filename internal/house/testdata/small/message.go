package small

type Message struct{ Queue string }

func (m Message) Name() string { return m.Queue }

// The names of two numbers.
const (
	One = "one"
	Two = "two"
)

var (
	Three = "three"
	Four  = "four" // has a comment
)

func (m message) Unreachable() {}

type message struct{}
