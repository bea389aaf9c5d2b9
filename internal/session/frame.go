package session

import "fmt"

// MaxFrame is RabbitMQ's frame_max. No connection has a larger one: it is also what we
// ask for.
const MaxFrame = 131072

// TooLong is the error of a message whose properties and headers, which travel in one
// frame, do not fit.
func TooLong(size, limit, frameMax int) error {
	return fmt.Errorf("the headers and properties take %d bytes, more than %d: the broker's frame_max is %d;"+
		" put large values into the body", size, limit, frameMax)
}
