package brokertest

// method is one AMQP method: its number and the visitor of its fields.
type method interface {
	id() methodID
	fields(coder)
}

// methodID is class<<16 | method.
type methodID uint32

func (id methodID) class() uint16  { return uint16(id >> 16) }
func (id methodID) method() uint16 { return uint16(id) }

// String is the protocol's name of the method, such as "basic.publish".
func (id methodID) String() string {
	if s, ok := methods[id]; ok {
		return s.name
	}
	return "unknown"
}

const classBasic = 60

// methodKind names a method and makes an empty one to decode into.
type methodKind struct {
	name string
	make func() method
}

// decodeMethod reads the payload of a method frame.
func decodeMethod(payload []byte) (method, error) {
	d := decoder{buf: payload}
	id := methodID(d.u32())
	if d.err != nil {
		return nil, errFrame("cannot decode method: %v", d.err)
	}
	kind, ok := methods[id]
	if !ok {
		return nil, errNotImplemented("method %d of class %d is not modelled", id.method(), id.class()).at(id)
	}
	m := kind.make()
	m.fields(&d)
	if d.err == nil && len(d.buf) > 0 {
		d.fail("%d octets left over", len(d.buf))
	}
	if d.err != nil {
		return nil, errFrame("cannot decode %s: %v", kind.name, d.err).at(id)
	}
	return m, nil
}

const (
	idNone methodID = 0

	idConnectionStart          methodID = 10<<16 | 10
	idConnectionStartOk        methodID = 10<<16 | 11
	idConnectionSecure         methodID = 10<<16 | 20
	idConnectionSecureOk       methodID = 10<<16 | 21
	idConnectionTune           methodID = 10<<16 | 30
	idConnectionTuneOk         methodID = 10<<16 | 31
	idConnectionOpen           methodID = 10<<16 | 40
	idConnectionOpenOk         methodID = 10<<16 | 41
	idConnectionClose          methodID = 10<<16 | 50
	idConnectionCloseOk        methodID = 10<<16 | 51
	idConnectionBlocked        methodID = 10<<16 | 60
	idConnectionUnblocked      methodID = 10<<16 | 61
	idConnectionUpdateSecret   methodID = 10<<16 | 70
	idConnectionUpdateSecretOk methodID = 10<<16 | 71
	idChannelOpen              methodID = 20<<16 | 10
	idChannelOpenOk            methodID = 20<<16 | 11
	idChannelFlow              methodID = 20<<16 | 20
	idChannelFlowOk            methodID = 20<<16 | 21
	idChannelClose             methodID = 20<<16 | 40
	idChannelCloseOk           methodID = 20<<16 | 41
	idAccessRequest            methodID = 30<<16 | 10
	idAccessRequestOk          methodID = 30<<16 | 11
	idExchangeDeclare          methodID = 40<<16 | 10
	idExchangeDeclareOk        methodID = 40<<16 | 11
	idExchangeDelete           methodID = 40<<16 | 20
	idExchangeDeleteOk         methodID = 40<<16 | 21
	idExchangeBind             methodID = 40<<16 | 30
	idExchangeBindOk           methodID = 40<<16 | 31
	idExchangeUnbind           methodID = 40<<16 | 40
	idExchangeUnbindOk         methodID = 40<<16 | 51
	idQueueDeclare             methodID = 50<<16 | 10
	idQueueDeclareOk           methodID = 50<<16 | 11
	idQueueBind                methodID = 50<<16 | 20
	idQueueBindOk              methodID = 50<<16 | 21
	idQueuePurge               methodID = 50<<16 | 30
	idQueuePurgeOk             methodID = 50<<16 | 31
	idQueueDelete              methodID = 50<<16 | 40
	idQueueDeleteOk            methodID = 50<<16 | 41
	idQueueUnbind              methodID = 50<<16 | 50
	idQueueUnbindOk            methodID = 50<<16 | 51
	idBasicQos                 methodID = 60<<16 | 10
	idBasicQosOk               methodID = 60<<16 | 11
	idBasicConsume             methodID = 60<<16 | 20
	idBasicConsumeOk           methodID = 60<<16 | 21
	idBasicCancel              methodID = 60<<16 | 30
	idBasicCancelOk            methodID = 60<<16 | 31
	idBasicPublish             methodID = 60<<16 | 40
	idBasicReturn              methodID = 60<<16 | 50
	idBasicDeliver             methodID = 60<<16 | 60
	idBasicGet                 methodID = 60<<16 | 70
	idBasicGetOk               methodID = 60<<16 | 71
	idBasicGetEmpty            methodID = 60<<16 | 72
	idBasicAck                 methodID = 60<<16 | 80
	idBasicReject              methodID = 60<<16 | 90
	idBasicRecoverAsync        methodID = 60<<16 | 100
	idBasicRecover             methodID = 60<<16 | 110
	idBasicRecoverOk           methodID = 60<<16 | 111
	idBasicNack                methodID = 60<<16 | 120
	idConfirmSelect            methodID = 85<<16 | 10
	idConfirmSelectOk          methodID = 85<<16 | 11
	idTxSelect                 methodID = 90<<16 | 10
	idTxSelectOk               methodID = 90<<16 | 11
	idTxCommit                 methodID = 90<<16 | 20
	idTxCommitOk               methodID = 90<<16 | 21
	idTxRollback               methodID = 90<<16 | 30
	idTxRollbackOk             methodID = 90<<16 | 31
)

// methods lists every method the broker reads or writes.
var methods map[methodID]methodKind

func init() {
	methods = map[methodID]methodKind{
		idConnectionStart:          {"connection.start", func() method { return &connectionStart{} }},
		idConnectionStartOk:        {"connection.start-ok", func() method { return &connectionStartOk{} }},
		idConnectionSecure:         {"connection.secure", func() method { return &connectionSecure{} }},
		idConnectionSecureOk:       {"connection.secure-ok", func() method { return &connectionSecureOk{} }},
		idConnectionTune:           {"connection.tune", func() method { return &connectionTune{} }},
		idConnectionTuneOk:         {"connection.tune-ok", func() method { return &connectionTuneOk{} }},
		idConnectionOpen:           {"connection.open", func() method { return &connectionOpen{} }},
		idConnectionOpenOk:         {"connection.open-ok", func() method { return &connectionOpenOk{} }},
		idConnectionClose:          {"connection.close", func() method { return &connectionClose{} }},
		idConnectionCloseOk:        {"connection.close-ok", func() method { return &connectionCloseOk{} }},
		idConnectionBlocked:        {"connection.blocked", func() method { return &connectionBlocked{} }},
		idConnectionUnblocked:      {"connection.unblocked", func() method { return &connectionUnblocked{} }},
		idConnectionUpdateSecret:   {"connection.update-secret", func() method { return &connectionUpdateSecret{} }},
		idConnectionUpdateSecretOk: {"connection.update-secret-ok", func() method { return &connectionUpdateSecretOk{} }},
		idChannelOpen:              {"channel.open", func() method { return &channelOpenMethod{} }},
		idChannelOpenOk:            {"channel.open-ok", func() method { return &channelOpenOk{} }},
		idChannelFlow:              {"channel.flow", func() method { return &channelFlow{} }},
		idChannelFlowOk:            {"channel.flow-ok", func() method { return &channelFlowOk{} }},
		idChannelClose:             {"channel.close", func() method { return &channelClose{} }},
		idChannelCloseOk:           {"channel.close-ok", func() method { return &channelCloseOk{} }},
		idAccessRequest:            {"access.request", func() method { return &accessRequest{} }},
		idAccessRequestOk:          {"access.request-ok", func() method { return &accessRequestOk{} }},
		idExchangeDeclare:          {"exchange.declare", func() method { return &exchangeDeclare{} }},
		idExchangeDeclareOk:        {"exchange.declare-ok", func() method { return &exchangeDeclareOk{} }},
		idExchangeDelete:           {"exchange.delete", func() method { return &exchangeDelete{} }},
		idExchangeDeleteOk:         {"exchange.delete-ok", func() method { return &exchangeDeleteOk{} }},
		idExchangeBind:             {"exchange.bind", func() method { return &exchangeBind{} }},
		idExchangeBindOk:           {"exchange.bind-ok", func() method { return &exchangeBindOk{} }},
		idExchangeUnbind:           {"exchange.unbind", func() method { return &exchangeUnbind{} }},
		idExchangeUnbindOk:         {"exchange.unbind-ok", func() method { return &exchangeUnbindOk{} }},
		idQueueDeclare:             {"queue.declare", func() method { return &queueDeclare{} }},
		idQueueDeclareOk:           {"queue.declare-ok", func() method { return &queueDeclareOk{} }},
		idQueueBind:                {"queue.bind", func() method { return &queueBind{} }},
		idQueueBindOk:              {"queue.bind-ok", func() method { return &queueBindOk{} }},
		idQueuePurge:               {"queue.purge", func() method { return &queuePurge{} }},
		idQueuePurgeOk:             {"queue.purge-ok", func() method { return &queuePurgeOk{} }},
		idQueueDelete:              {"queue.delete", func() method { return &queueDelete{} }},
		idQueueDeleteOk:            {"queue.delete-ok", func() method { return &queueDeleteOk{} }},
		idQueueUnbind:              {"queue.unbind", func() method { return &queueUnbind{} }},
		idQueueUnbindOk:            {"queue.unbind-ok", func() method { return &queueUnbindOk{} }},
		idBasicQos:                 {"basic.qos", func() method { return &basicQos{} }},
		idBasicQosOk:               {"basic.qos-ok", func() method { return &basicQosOk{} }},
		idBasicConsume:             {"basic.consume", func() method { return &basicConsume{} }},
		idBasicConsumeOk:           {"basic.consume-ok", func() method { return &basicConsumeOk{} }},
		idBasicCancel:              {"basic.cancel", func() method { return &basicCancel{} }},
		idBasicCancelOk:            {"basic.cancel-ok", func() method { return &basicCancelOk{} }},
		idBasicPublish:             {"basic.publish", func() method { return &basicPublish{} }},
		idBasicReturn:              {"basic.return", func() method { return &basicReturn{} }},
		idBasicDeliver:             {"basic.deliver", func() method { return &basicDeliver{} }},
		idBasicGet:                 {"basic.get", func() method { return &basicGet{} }},
		idBasicGetOk:               {"basic.get-ok", func() method { return &basicGetOk{} }},
		idBasicGetEmpty:            {"basic.get-empty", func() method { return &basicGetEmpty{} }},
		idBasicAck:                 {"basic.ack", func() method { return &basicAck{} }},
		idBasicReject:              {"basic.reject", func() method { return &basicReject{} }},
		idBasicRecoverAsync:        {"basic.recover-async", func() method { return &basicRecoverAsync{} }},
		idBasicRecover:             {"basic.recover", func() method { return &basicRecover{} }},
		idBasicRecoverOk:           {"basic.recover-ok", func() method { return &basicRecoverOk{} }},
		idBasicNack:                {"basic.nack", func() method { return &basicNack{} }},
		idConfirmSelect:            {"confirm.select", func() method { return &confirmSelect{} }},
		idConfirmSelectOk:          {"confirm.select-ok", func() method { return &confirmSelectOk{} }},
		idTxSelect:                 {"tx.select", func() method { return &txSelect{} }},
		idTxSelectOk:               {"tx.select-ok", func() method { return &txSelectOk{} }},
		idTxCommit:                 {"tx.commit", func() method { return &txCommit{} }},
		idTxCommitOk:               {"tx.commit-ok", func() method { return &txCommitOk{} }},
		idTxRollback:               {"tx.rollback", func() method { return &txRollback{} }},
		idTxRollbackOk:             {"tx.rollback-ok", func() method { return &txRollbackOk{} }},
	}
}
