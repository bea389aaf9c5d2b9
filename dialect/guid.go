package dialect

import "fmt"

// CheckGUID refuses an id that a peer of .NET could not read as a Guid: it has 32 hexadecimal digits in groups of 8, 4, 4, 4
// and 12 with a - between them. The ids of harebus are of this form.
func CheckGUID(what, id string) error {
	if IsGUID(id) {
		return nil
	}
	return fmt.Errorf("the %s %.80q is not a GUID (8-4-4-4-12 hexadecimal digits), and the peer reads no other ids; leave it to harebus, or set one of this form", what, id)
}

// IsGUID says whether an id is what [CheckGUID] accepts.
func IsGUID(id string) bool {
	const digits = 36
	if len(id) != digits {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
