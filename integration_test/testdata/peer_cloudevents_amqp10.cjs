// A client of AMQP 1.0 as a peer: peer_cloudevents_amqp10.cjs HOST PORT ADDRESS sends events to a queue, in the forms of the binding of CloudEvents for AMQP, and ends when the
// broker has accepted all of them.
const rhea = require('rhea');
const [host, port, address] = process.argv.slice(2);

const attributes = (prefix, id, time) => {
  const all = { id, source: '/gateway', type: 'com.acme.order.placed', specversion: '1.0', time, subject: 'orders/7', level: rhea.types.wrap_int(3), sampled: true };
  return Object.fromEntries(Object.entries(all).map(([name, value]) => [prefix + name, value]));
};
const data = (text) => rhea.message.data_section(Buffer.from(text));
const document = (id) => JSON.stringify({ id, source: '/gateway', type: 'com.acme.order.placed', specversion: '1.0', time: '2026-11-21T08:44:41.000Z', subject: 'orders/7', level: 3, sampled: true, data: { id: 7 } });
const at = new Date('2026-11-21T08:44:41Z');
const json = 'application/json';
const structured = 'application/cloudevents+json; charset=UTF-8';
const messages = [
  { application_properties: attributes('cloudEvents_', 'data', at), content_type: json, body: data('{"id":7}') },
  { application_properties: attributes('cloudEvents:', 'colon', '2026-11-21T08:44:41.000Z'), content_type: json, body: data('{"id":7}') },
  { application_properties: attributes('cloudEvents_', 'text', at), content_type: json, body: '{"id":7}' },
  { content_type: structured, body: data(document('document')) },
  { content_type: structured, body: document('text document') },
  { application_properties: attributes('cloudEvents_', 'map', at), content_type: json, body: { id: 7 } },
];

const connection = rhea.connect({ host, port, username: 'guest', password: 'guest', reconnect: false });
const sender = connection.open_sender(address);
let left = messages.length;
sender.once('sendable', () => messages.forEach((message) => sender.send(message)));
rhea.on('accepted', () => { if (--left === 0) connection.close(); });
for (const fault of ['rejected', 'released', 'sender_error', 'session_error', 'connection_error', 'disconnected', 'error']) {
  rhea.on(fault, (context) => {
    if (left > 0) {
      console.log(fault, context.error || (context.sender && context.sender.error) || (context.connection && context.connection.error));
      process.exit(1);
    }
  });
}
