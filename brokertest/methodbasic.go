package brokertest

// The methods of the classes basic, confirm and tx; see methodfields.go.

type basicQos struct {
	prefetchSize  uint32
	prefetchCount uint16
	global        bool
}

func (*basicQos) id() methodID { return idBasicQos }

func (m *basicQos) fields(c coder) {
	c.long(&m.prefetchSize)
	c.short(&m.prefetchCount)
	c.bits(&m.global)
}

type basicQosOk struct{}

func (*basicQosOk) id() methodID { return idBasicQosOk }

func (*basicQosOk) fields(coder) {}

type basicConsume struct {
	ticket    uint16
	queue     string
	tag       string
	noLocal   bool
	noAck     bool
	exclusive bool
	noWait    bool
	arguments table
}

func (*basicConsume) id() methodID { return idBasicConsume }

func (m *basicConsume) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.shortstr(&m.tag)
	c.bits(&m.noLocal, &m.noAck, &m.exclusive, &m.noWait)
	c.table(&m.arguments)
}

type basicConsumeOk struct {
	tag string
}

func (*basicConsumeOk) id() methodID { return idBasicConsumeOk }

func (m *basicConsumeOk) fields(c coder) {
	c.shortstr(&m.tag)
}

type basicCancel struct {
	tag    string
	noWait bool
}

func (*basicCancel) id() methodID { return idBasicCancel }

func (m *basicCancel) fields(c coder) {
	c.shortstr(&m.tag)
	c.bits(&m.noWait)
}

type basicCancelOk struct {
	tag string
}

func (*basicCancelOk) id() methodID { return idBasicCancelOk }

func (m *basicCancelOk) fields(c coder) {
	c.shortstr(&m.tag)
}

type basicPublish struct {
	ticket    uint16
	exchange  string
	key       string
	mandatory bool
	immediate bool
}

func (*basicPublish) id() methodID { return idBasicPublish }

func (m *basicPublish) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
	c.bits(&m.mandatory, &m.immediate)
}

type basicReturn struct {
	code     uint16
	text     string
	exchange string
	key      string
}

func (*basicReturn) id() methodID { return idBasicReturn }

func (m *basicReturn) fields(c coder) {
	c.short(&m.code)
	c.shortstr(&m.text)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
}

type basicDeliver struct {
	tag         string
	deliveryTag uint64
	redelivered bool
	exchange    string
	key         string
}

func (*basicDeliver) id() methodID { return idBasicDeliver }

func (m *basicDeliver) fields(c coder) {
	c.shortstr(&m.tag)
	c.longlong(&m.deliveryTag)
	c.bits(&m.redelivered)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
}

type basicGet struct {
	ticket uint16
	queue  string
	noAck  bool
}

func (*basicGet) id() methodID { return idBasicGet }

func (m *basicGet) fields(c coder) {
	c.short(&m.ticket)
	c.shortstr(&m.queue)
	c.bits(&m.noAck)
}

type basicGetOk struct {
	deliveryTag uint64
	redelivered bool
	exchange    string
	key         string
	messages    uint32
}

func (*basicGetOk) id() methodID { return idBasicGetOk }

func (m *basicGetOk) fields(c coder) {
	c.longlong(&m.deliveryTag)
	c.bits(&m.redelivered)
	c.shortstr(&m.exchange)
	c.shortstr(&m.key)
	c.long(&m.messages)
}

type basicGetEmpty struct {
	reserved1 string
}

func (*basicGetEmpty) id() methodID { return idBasicGetEmpty }

func (m *basicGetEmpty) fields(c coder) {
	c.shortstr(&m.reserved1)
}

type basicAck struct {
	deliveryTag uint64
	multiple    bool
}

func (*basicAck) id() methodID { return idBasicAck }

func (m *basicAck) fields(c coder) {
	c.longlong(&m.deliveryTag)
	c.bits(&m.multiple)
}

type basicReject struct {
	deliveryTag uint64
	requeue     bool
}

func (*basicReject) id() methodID { return idBasicReject }

func (m *basicReject) fields(c coder) {
	c.longlong(&m.deliveryTag)
	c.bits(&m.requeue)
}

type basicRecoverAsync struct {
	requeue bool
}

func (*basicRecoverAsync) id() methodID { return idBasicRecoverAsync }

func (m *basicRecoverAsync) fields(c coder) {
	c.bits(&m.requeue)
}

type basicRecover struct {
	requeue bool
}

func (*basicRecover) id() methodID { return idBasicRecover }

func (m *basicRecover) fields(c coder) {
	c.bits(&m.requeue)
}

type basicRecoverOk struct{}

func (*basicRecoverOk) id() methodID { return idBasicRecoverOk }

func (*basicRecoverOk) fields(coder) {}

type basicNack struct {
	deliveryTag uint64
	multiple    bool
	requeue     bool
}

func (*basicNack) id() methodID { return idBasicNack }

func (m *basicNack) fields(c coder) {
	c.longlong(&m.deliveryTag)
	c.bits(&m.multiple, &m.requeue)
}

type confirmSelect struct {
	noWait bool
}

func (*confirmSelect) id() methodID { return idConfirmSelect }

func (m *confirmSelect) fields(c coder) {
	c.bits(&m.noWait)
}

type confirmSelectOk struct{}

func (*confirmSelectOk) id() methodID { return idConfirmSelectOk }

func (*confirmSelectOk) fields(coder) {}

type txSelect struct{}

func (*txSelect) id() methodID { return idTxSelect }

func (*txSelect) fields(coder) {}

type txSelectOk struct{}

func (*txSelectOk) id() methodID { return idTxSelectOk }

func (*txSelectOk) fields(coder) {}

type txCommit struct{}

func (*txCommit) id() methodID { return idTxCommit }

func (*txCommit) fields(coder) {}

type txCommitOk struct{}

func (*txCommitOk) id() methodID { return idTxCommitOk }

func (*txCommitOk) fields(coder) {}

type txRollback struct{}

func (*txRollback) id() methodID { return idTxRollback }

func (*txRollback) fields(coder) {}

type txRollbackOk struct{}

func (*txRollbackOk) id() methodID { return idTxRollbackOk }

func (*txRollbackOk) fields(coder) {}
