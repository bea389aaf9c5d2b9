package nullbroker

import "encoding/binary"

// Methods are named by class and number, as in the specification.
type methodID uint32

func id(class, number uint16) methodID { return methodID(class)<<16 | methodID(number) }

// method handles the method in c.payload.
func (c *connection) method(channelID uint16) bool {
	class, number := binary.BigEndian.Uint16(c.payload), binary.BigEndian.Uint16(c.payload[2:])
	args := c.payload[4:]
	reply := func(number uint16, args ...byte) { c.write(method(channelID, class, number, args)) }
	switch id(class, number) {
	case id(10, 11): // connection.start-ok
		reply(30, tuneArguments()...)
	case id(10, 31): // connection.tune-ok
	case id(10, 40): // connection.open
		reply(41, 0)
	case id(10, 50): // connection.close
		reply(51)
	case id(10, 51): // connection.close-ok
		return false
	case id(20, 10): // channel.open
		c.channel(channelID)
		reply(11, 0, 0, 0, 0)
	case id(20, 40): // channel.close
		c.channel(channelID).feed.end()
		delete(c.channels, channelID)
		reply(41)
	case id(50, 10): // queue.declare
		name, _ := shortString(args[2:])
		reply(11, append(appendShort(nil, name), 0, 0, 0, 0, 0, 0, 0, 0)...)
	case id(50, 30), id(50, 40): // queue.purge, queue.delete
		reply(number+1, 0, 0, 0, 0)
	case id(85, 10): // confirm.select
		c.channel(channelID).confirms = true
		reply(11)
	default:
		if class == 60 {
			c.basic(c.channel(channelID), number, args)
			return true
		}
		reply(number + 1) // exchange.declare and others without results
	}
	return true
}

func (c *connection) basic(ch *channel, number uint16, args []byte) {
	switch number {
	case 10: // qos
		ch.feed.limit(int(binary.BigEndian.Uint16(args[4:])))
		c.write(method(ch.id, 60, 11, nil))
	case 20: // consume
		queue, rest := shortString(args[2:])
		tag, _ := shortString(rest)
		c.write(method(ch.id, 60, 21, appendShort(nil, tag)))
		if m, ok := c.broker.recall(queue); ok {
			stop := ch.feed.begin()
			c.wg.Go(func() { ch.feed.run(c, newDelivery(ch.id, tag, m), stop) })
		}
	case 30: // cancel
		tag, _ := shortString(args)
		ch.feed.cancel()
		c.write(method(ch.id, 60, 31, appendShort(nil, tag)))
	case 40: // publish
		exchange, rest := shortBytes(args[2:])
		key, _ := shortBytes(rest)
		if ch.incoming.key != string(key) { // a comparison does not allocate
			ch.incoming.key = string(key)
		}
		if ch.incoming.exchange != string(exchange) {
			ch.incoming.exchange = string(exchange)
		}
	case 80, 90, 120: // ack, reject, nack
		ch.feed.settle(binary.BigEndian.Uint64(args), number != 90 && args[8]&1 != 0)
	}
}

// Encoding.

func frame(kind byte, channelID uint16, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+8)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, channelID)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload))) //nolint:gosec // a frame is small
	b = append(b, payload...)
	return append(b, frameEnd)
}

func method(channelID, class, number uint16, args []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, class)
	b = binary.BigEndian.AppendUint16(b, number)
	return frame(frameMethod, channelID, append(b, args...))
}

func confirmFrame(channelID uint16, tag uint64) []byte {
	return method(channelID, 60, 80, append(binary.BigEndian.AppendUint64(nil, tag), 1))
}

func appendShort(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

func appendLong(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...) //nolint:gosec // short texts only
}

func shortString(b []byte) (string, []byte) {
	s, rest := shortBytes(b)
	return string(s), rest
}

func shortBytes(b []byte) (s, rest []byte) {
	n := int(b[0]) + 1
	return b[1:n], b[n:]
}

// startFrame is connection.start with the capabilities clients look for.
func startFrame() []byte {
	var capabilities []byte
	for _, name := range []string{"publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"} {
		capabilities = append(appendShort(capabilities, name), 't', 1)
	}
	table := append(appendLong(append(appendShort(nil, "product"), 'S'), "nullbroker"), appendShort(nil, "version")...)
	table = appendLong(append(table, 'S'), "0")
	table = appendLong(append(appendShort(table, "capabilities"), 'F'), string(capabilities))
	args := appendLong([]byte{0, 9}, string(table))
	args = appendLong(appendLong(args, "PLAIN"), "en_US")
	return method(0, 10, 10, args)
}

func tuneArguments() []byte {
	args := binary.BigEndian.AppendUint16(nil, 2047)
	args = binary.BigEndian.AppendUint32(args, frameMax)
	return binary.BigEndian.AppendUint16(args, 60)
}
