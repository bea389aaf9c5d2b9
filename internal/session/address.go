package session

import (
	"errors"
	"fmt"
	"math"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Address is the parsed address of a broker.
type Address = amqp.URI

// ParseAddresses parses the addresses of brokers. Its errors never quote one: it may hold a
// password, and the parser's own message may too.
func ParseAddresses(urls []string) ([]Address, error) {
	var faults []error
	uris := make([]Address, 0, len(urls))
	for i, address := range urls {
		if strings.Contains(address, "?") {
			faults = append(faults, fmt.Errorf("address %d has parameters after a ?; use the fields of Connect instead", i+1))
			continue
		}
		uri, err := amqp.ParseURI(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("address %d is not of the form amqp://user:password@host:port/vhost"+
				" (percent-encode special characters in the user name, password and vhost)", i+1))
			continue
		}
		if uri.Port < 1 || uri.Port > math.MaxUint16 {
			faults = append(faults, fmt.Errorf("address %d: the port %d is not between 1 and %d", i+1, uri.Port, math.MaxUint16))
			continue
		}
		uris = append(uris, uri)
	}
	return uris, errors.Join(faults...)
}
