package brokertest

// Bits of the property flags, from the first property down.
const (
	flagContentType = 1 << (15 - iota)
	flagContentEncoding
	flagHeaders
	flagDeliveryMode
	flagPriority
	flagCorrelationID
	flagReplyTo
	flagExpiration
	flagMessageID
	flagTimestamp
	flagType
	flagUserID
	flagAppID
	flagClusterID
)

// properties are the basic properties of a message; flags says which are set.
type properties struct {
	flags           uint16
	contentType     string
	contentEncoding string
	headers         table
	deliveryMode    uint8
	priority        uint8
	correlationID   string
	replyTo         string
	expiration      string
	messageID       string
	timestamp       uint64
	kind            string
	userID          string
	appID           string
	clusterID       string
}

func (p *properties) has(flag uint16) bool { return p.flags&flag != 0 }

// set marks a property as present.
func (p *properties) set(flag uint16) { p.flags |= flag }

// clear marks a property as absent.
func (p *properties) clear(flag uint16) { p.flags &^= flag }

func (p *properties) visit(c coder) {
	str := func(flag uint16, s *string) {
		if p.has(flag) {
			c.shortstr(s)
		}
	}
	str(flagContentType, &p.contentType)
	str(flagContentEncoding, &p.contentEncoding)
	if p.has(flagHeaders) {
		c.table(&p.headers)
	}
	if p.has(flagDeliveryMode) {
		c.octet(&p.deliveryMode)
	}
	if p.has(flagPriority) {
		c.octet(&p.priority)
	}
	str(flagCorrelationID, &p.correlationID)
	str(flagReplyTo, &p.replyTo)
	str(flagExpiration, &p.expiration)
	str(flagMessageID, &p.messageID)
	if p.has(flagTimestamp) {
		c.longlong(&p.timestamp)
	}
	str(flagType, &p.kind)
	str(flagUserID, &p.userID)
	str(flagAppID, &p.appID)
	str(flagClusterID, &p.clusterID)
}

func (p *properties) decode(d *decoder) {
	p.flags = d.u16()
	if p.flags&3 != 0 {
		d.fail("property flags %#x", p.flags)
		return
	}
	p.visit(d)
}

func (p *properties) encode() []byte {
	var e encoder
	e.u16(p.flags)
	p.visit(&e)
	return e.buf
}

// setHeaders replaces the header table.
func (p *properties) setHeaders(t table) {
	p.headers = t
	p.set(flagHeaders)
}
