package header

// NamesOf are the full names with a prefix. They are made once, so that stamping a message
// concatenates nothing.
func NamesOf(prefix string) Names {
	return Names{
		MessageID:          prefix + "MessageId",
		CorrelationID:      prefix + "CorrelationId",
		TimeSent:           prefix + "TimeSent",
		ReplyTo:            prefix + "ReplyToAddress",
		OriginatingAddress: prefix + "OriginatingAddress",
		Intent:             prefix + "Intent",
		MessageType:        prefix + "MessageType",
		ContentType:        prefix + "ContentType",
		ContentEncoding:    prefix + "ContentEncoding",
		DeferredTime:       prefix + "DeferredTime",
		ErrorRetries:       prefix + "ErrorRetries",
		ErrorDetails:       prefix + "ErrorDetails",
		SourceQueue:        prefix + "SourceQueue",
		Hops:               prefix + "Hops",
		FirstFailed:        prefix + "FirstFailed",
		LeftOut:            prefix + "LeftOut",
		RawHeaders:         prefix + "RawHeaders",
		Signature:          prefix + "Signature",
		Parking:            prefix + "Parking",
		ReplyBy:            prefix + "ReplyBy",
		Fault:              prefix + "Fault",
		StreamOffset:       prefix + "StreamOffset",
		Replayed:           prefix + "Replayed",
		OriginalMessageID:  prefix + "OriginalMessageId",
		Key:                prefix + "Key",
		CausationID:        prefix + "CausationId",
		Environment:        prefix + "Environment",
		Dialect:            prefix + "Dialect",
	}
}
