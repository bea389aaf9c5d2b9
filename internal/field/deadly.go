package field

import (
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Deadly says whether sending a received header again ends the connection: a float
// that is NaN or infinite always does, and a decimal does where a stream is bound to
// the exchange. RabbitMQ 3.10.8, 4.0.5 and 4.3.6 answer both with error 541.
func Deadly(value any) bool {
	switch v := value.(type) {
	case float32:
		return finite(float64(v)) != nil
	case float64:
		return finite(v) != nil
	case amqp.Decimal:
		return true
	case []any:
		return slices.ContainsFunc(v, Deadly)
	case amqp.Table:
		for _, entry := range v {
			if Deadly(entry) {
				return true
			}
		}
	}
	return false
}
