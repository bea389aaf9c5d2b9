package brokertest

// The methods of AMQP 0-9-1 with RabbitMQ's extensions, in the order of their
// numbers. The order of the fields is their order on the wire; neighbouring
// booleans share an octet.

type connectionStart struct {
	versionMajor uint8
	versionMinor uint8
	properties   table
	mechanisms   string
	locales      string
}

func (*connectionStart) id() methodID { return idConnectionStart }

func (m *connectionStart) fields(c coder) {
	c.octet(&m.versionMajor)
	c.octet(&m.versionMinor)
	c.table(&m.properties)
	c.longstr(&m.mechanisms)
	c.longstr(&m.locales)
}

type connectionStartOk struct {
	properties table
	mechanism  string
	response   string
	locale     string
}

func (*connectionStartOk) id() methodID { return idConnectionStartOk }

func (m *connectionStartOk) fields(c coder) {
	c.table(&m.properties)
	c.shortstr(&m.mechanism)
	c.longstr(&m.response)
	c.shortstr(&m.locale)
}

type connectionSecure struct {
	challenge string
}

func (*connectionSecure) id() methodID { return idConnectionSecure }

func (m *connectionSecure) fields(c coder) {
	c.longstr(&m.challenge)
}

type connectionSecureOk struct {
	response string
}

func (*connectionSecureOk) id() methodID { return idConnectionSecureOk }

func (m *connectionSecureOk) fields(c coder) {
	c.longstr(&m.response)
}

type connectionTune struct {
	channelMax uint16
	frameMax   uint32
	heartbeat  uint16
}

func (*connectionTune) id() methodID { return idConnectionTune }

func (m *connectionTune) fields(c coder) {
	c.short(&m.channelMax)
	c.long(&m.frameMax)
	c.short(&m.heartbeat)
}

type connectionTuneOk struct {
	channelMax uint16
	frameMax   uint32
	heartbeat  uint16
}

func (*connectionTuneOk) id() methodID { return idConnectionTuneOk }

func (m *connectionTuneOk) fields(c coder) {
	c.short(&m.channelMax)
	c.long(&m.frameMax)
	c.short(&m.heartbeat)
}

type connectionOpen struct {
	vhost     string
	reserved1 string
	reserved2 bool
}

func (*connectionOpen) id() methodID { return idConnectionOpen }

func (m *connectionOpen) fields(c coder) {
	c.shortstr(&m.vhost)
	c.shortstr(&m.reserved1)
	c.bits(&m.reserved2)
}

type connectionOpenOk struct {
	reserved1 string
}

func (*connectionOpenOk) id() methodID { return idConnectionOpenOk }

func (m *connectionOpenOk) fields(c coder) {
	c.shortstr(&m.reserved1)
}

type connectionClose struct {
	code     uint16
	text     string
	classID  uint16
	methodID uint16
}

func (*connectionClose) id() methodID { return idConnectionClose }

func (m *connectionClose) fields(c coder) {
	c.short(&m.code)
	c.shortstr(&m.text)
	c.short(&m.classID)
	c.short(&m.methodID)
}

type connectionCloseOk struct{}

func (*connectionCloseOk) id() methodID { return idConnectionCloseOk }

func (*connectionCloseOk) fields(coder) {}

type connectionBlocked struct {
	reason string
}

func (*connectionBlocked) id() methodID { return idConnectionBlocked }

func (m *connectionBlocked) fields(c coder) {
	c.shortstr(&m.reason)
}

type connectionUnblocked struct{}

func (*connectionUnblocked) id() methodID { return idConnectionUnblocked }

func (*connectionUnblocked) fields(coder) {}

type connectionUpdateSecret struct {
	secret string
	reason string
}

func (*connectionUpdateSecret) id() methodID { return idConnectionUpdateSecret }

func (m *connectionUpdateSecret) fields(c coder) {
	c.longstr(&m.secret)
	c.shortstr(&m.reason)
}

type connectionUpdateSecretOk struct{}

func (*connectionUpdateSecretOk) id() methodID { return idConnectionUpdateSecretOk }

func (*connectionUpdateSecretOk) fields(coder) {}

type channelOpenMethod struct {
	reserved1 string
}

func (*channelOpenMethod) id() methodID { return idChannelOpen }

func (m *channelOpenMethod) fields(c coder) {
	c.shortstr(&m.reserved1)
}

type channelOpenOk struct {
	reserved1 string
}

func (*channelOpenOk) id() methodID { return idChannelOpenOk }

func (m *channelOpenOk) fields(c coder) {
	c.longstr(&m.reserved1)
}

type channelFlow struct {
	active bool
}

func (*channelFlow) id() methodID { return idChannelFlow }

func (m *channelFlow) fields(c coder) {
	c.bits(&m.active)
}

type channelFlowOk struct {
	active bool
}

func (*channelFlowOk) id() methodID { return idChannelFlowOk }

func (m *channelFlowOk) fields(c coder) {
	c.bits(&m.active)
}

type channelClose struct {
	code     uint16
	text     string
	classID  uint16
	methodID uint16
}

func (*channelClose) id() methodID { return idChannelClose }

func (m *channelClose) fields(c coder) {
	c.short(&m.code)
	c.shortstr(&m.text)
	c.short(&m.classID)
	c.short(&m.methodID)
}

type channelCloseOk struct{}

func (*channelCloseOk) id() methodID { return idChannelCloseOk }

func (*channelCloseOk) fields(coder) {}

type accessRequest struct {
	realm     string
	exclusive bool
	passive   bool
	active    bool
	write     bool
	read      bool
}

func (*accessRequest) id() methodID { return idAccessRequest }

func (m *accessRequest) fields(c coder) {
	c.shortstr(&m.realm)
	c.bits(&m.exclusive, &m.passive, &m.active, &m.write, &m.read)
}

type accessRequestOk struct {
	ticket uint16
}

func (*accessRequestOk) id() methodID { return idAccessRequestOk }

func (m *accessRequestOk) fields(c coder) {
	c.short(&m.ticket)
}

type exchangeDeclare struct {
	ticket     uint16
	exchange   string
	kind       string
	passive    bool
	durable    bool
	autoDelete bool
	internal   bool
	noWait     bool
	arguments  table
}

func (*exchangeDeclare) id() methodID { return idExchangeDeclare }

func (m *exchangeDeclare) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.exchange)
	c.shortstr(&m.kind)
	c.bits(&m.passive, &m.durable, &m.autoDelete, &m.internal, &m.noWait)
	c.table(&m.arguments)
}

type exchangeDeclareOk struct{}

func (*exchangeDeclareOk) id() methodID { return idExchangeDeclareOk }

func (*exchangeDeclareOk) fields(coder) {}

type exchangeDelete struct {
	ticket   uint16
	exchange string
	ifUnused bool
	noWait   bool
}

func (*exchangeDelete) id() methodID { return idExchangeDelete }

func (m *exchangeDelete) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.exchange)
	c.bits(&m.ifUnused, &m.noWait)
}

type exchangeDeleteOk struct{}

func (*exchangeDeleteOk) id() methodID { return idExchangeDeleteOk }

func (*exchangeDeleteOk) fields(coder) {}

type exchangeBind struct {
	ticket      uint16
	destination string
	source      string
	key         string
	noWait      bool
	arguments   table
}

func (*exchangeBind) id() methodID { return idExchangeBind }

func (m *exchangeBind) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.destination)
	c.shortstr(&m.source)
	c.shortstr(&m.key)
	c.bits(&m.noWait)
	c.table(&m.arguments)
}

type exchangeBindOk struct{}

func (*exchangeBindOk) id() methodID { return idExchangeBindOk }

func (*exchangeBindOk) fields(coder) {}

type exchangeUnbind struct {
	ticket      uint16
	destination string
	source      string
	key         string
	noWait      bool
	arguments   table
}

func (*exchangeUnbind) id() methodID { return idExchangeUnbind }

func (m *exchangeUnbind) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.destination)
	c.shortstr(&m.source)
	c.shortstr(&m.key)
	c.bits(&m.noWait)
	c.table(&m.arguments)
}

type exchangeUnbindOk struct{}

func (*exchangeUnbindOk) id() methodID { return idExchangeUnbindOk }

func (*exchangeUnbindOk) fields(coder) {}

type queueDeclare struct {
	ticket     uint16
	queue      string
	passive    bool
	durable    bool
	exclusive  bool
	autoDelete bool
	noWait     bool
	arguments  table
}

func (*queueDeclare) id() methodID { return idQueueDeclare }

func (m *queueDeclare) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.bits(&m.passive, &m.durable, &m.exclusive, &m.autoDelete, &m.noWait)
	c.table(&m.arguments)
}

type queueDeclareOk struct {
	queue     string
	messages  uint32
	consumers uint32
}

func (*queueDeclareOk) id() methodID { return idQueueDeclareOk }

func (m *queueDeclareOk) fields(c coder) {
	c.shortstr(&m.queue)
	c.long(&m.messages)
	c.long(&m.consumers)
}

type queueBind struct {
	ticket    uint16
	queue     string
	exchange  string
	key       string
	noWait    bool
	arguments table
}

func (*queueBind) id() methodID { return idQueueBind }

func (m *queueBind) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
	c.bits(&m.noWait)
	c.table(&m.arguments)
}

type queueBindOk struct{}

func (*queueBindOk) id() methodID { return idQueueBindOk }

func (*queueBindOk) fields(coder) {}

type queuePurge struct {
	ticket uint16
	queue  string
	noWait bool
}

func (*queuePurge) id() methodID { return idQueuePurge }

func (m *queuePurge) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.bits(&m.noWait)
}

type queuePurgeOk struct {
	messages uint32
}

func (*queuePurgeOk) id() methodID { return idQueuePurgeOk }

func (m *queuePurgeOk) fields(c coder) {
	c.long(&m.messages)
}

type queueDelete struct {
	ticket   uint16
	queue    string
	ifUnused bool
	ifEmpty  bool
	noWait   bool
}

func (*queueDelete) id() methodID { return idQueueDelete }

func (m *queueDelete) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.bits(&m.ifUnused, &m.ifEmpty, &m.noWait)
}

type queueDeleteOk struct {
	messages uint32
}

func (*queueDeleteOk) id() methodID { return idQueueDeleteOk }

func (m *queueDeleteOk) fields(c coder) {
	c.long(&m.messages)
}

type queueUnbind struct {
	ticket    uint16
	queue     string
	exchange  string
	key       string
	arguments table
}

func (*queueUnbind) id() methodID { return idQueueUnbind }

func (m *queueUnbind) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
	c.table(&m.arguments)
}

type queueUnbindOk struct{}

func (*queueUnbindOk) id() methodID { return idQueueUnbindOk }

func (*queueUnbindOk) fields(coder) {}
