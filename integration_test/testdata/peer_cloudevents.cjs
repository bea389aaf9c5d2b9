// A service that uses the CloudEvents SDK for JavaScript: peer_cloudevents.cjs URL OURS PEERS COUNT makes the queue PEERS, prints "ready", sends
// an event in each form to the queue OURS, and prints what the SDK understands of so many messages in PEERS, one line of JSON each.
const { CloudEvent, HTTP, Kafka } = require('cloudevents');
const amqp = require('amqplib');

const [url, ours, peers, count] = process.argv.slice(2);
const event = (form, more) => new CloudEvent({
  id: form, source: '/gateway', type: 'com.acme.order.placed', time: '2026-11-21T08:44:41.901Z', subject: 'orders/7',
  datacontenttype: 'application/json', correlationid: 'c-1', priority: 3, sampled: true, data: { id: 7, customer: 'Grüße & <Co>' }, ...more,
});

// The SDK has no binding for AMQP. That differs from the one for HTTP in the names of headers.
const toHTTP = ({ properties, content }) => {
  const headers = { 'content-type': properties.contentType };
  for (const [name, value] of Object.entries(properties.headers || {})) headers[name.replace(/^cloudEvents[_:]/, 'ce-')] = String(value);
  return HTTP.toEvent({ headers, body: content.toString() });
};

async function main() {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(peers, { durable: true, autoDelete: true });
  let left = Number(count);
  const done = new Promise((resolve, reject) => {
    channel.consume(peers, (message) => {
      try {
        const got = toHTTP(message);
        got.validate();
        console.log(JSON.stringify({ ...got.toJSON(), form: message.properties.contentType, time: undefined }));
        channel.ack(message);
        if (--left === 0) resolve();
      } catch (error) { reject(error); }
    }).catch(reject);
  });
  console.log('ready');
  const send = (body, headers, contentType) => channel.sendToQueue(ours, Buffer.from(body), { persistent: true, mandatory: true, headers, contentType });
  const defined = (headers) => Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
  const renamed = (headers, prefix) => Object.fromEntries(Object.entries(defined(headers)).map(([name, value]) => [name.replace(/^ce-/, prefix), value]));
  const document = (form, more) => HTTP.structured(event(form, more));
  send(document('structured').body, {}, document('structured').headers['content-type']);
  send(document('dapr').body, {}, 'text/plain');
  send(document('blob', { data: Buffer.from([1, 2, 255]), datacontenttype: 'application/octet-stream' }).body, {}, 'application/cloudevents+json');
  for (const [form, prefix] of [['amqp', 'cloudEvents_'], ['colon', 'cloudEvents:'], ['bare', '']]) {
    const { headers, body } = HTTP.binary(event(form));
    const type = headers['content-type'];
    delete headers['content-type'];
    send(body, renamed(headers, prefix), type);
  }
  const http = HTTP.binary(event('http')); // the headers of HTTP as those of AMQP
  send(http.body, http.headers);
  const kafka = Kafka.binary(event('kafka'));
  send(JSON.stringify(kafka.value), defined(kafka.headers), 'application/json');
  await channel.waitForConfirms();
  await done;
  await connection.close();
}
main().catch((error) => { console.error(error); process.exit(1); });
