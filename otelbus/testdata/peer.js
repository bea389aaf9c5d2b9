// A service with OpenTelemetry's own instrumentation of amqplib. It answers each message of a queue in another one, prints
// what it found of the trace, and at the end of its input the spans that the instrumentation has made.
const api = require('@opentelemetry/api');
const { NodeTracerProvider, SimpleSpanProcessor, InMemorySpanExporter } = require('@opentelemetry/sdk-trace-node');
const { AmqplibInstrumentation } = require('@opentelemetry/instrumentation-amqplib');

const spans = new InMemorySpanExporter();
new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }).register(); // the W3C's trace context and baggage
new AmqplibInstrumentation();
const amqp = require('amqplib'); // after its instrumentation

const [url, queue, answers] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));

(async () => {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, { durable: true });
  await channel.consume(queue, async (message) => {
    const baggage = api.propagation.getActiveBaggage();
    const state = api.trace.getActiveSpan().spanContext().traceState;
    say({ got: message.properties.messageId, baggage: baggage?.getEntry('tenant')?.value, state: state?.get('vendor') });
    channel.sendToQueue(answers, Buffer.from('{"ID":8}'), { type: 'OrderPlaced', contentType: 'application/json', messageId: 'from js' });
    await channel.waitForConfirms();
    channel.ack(message);
  });
  say({ ready: true });
  process.stdin.resume();
  await new Promise((resolve) => process.stdin.on('end', resolve));
  await connection.close();
  for (const span of spans.getFinishedSpans()) {
    const { traceId, spanId } = span.spanContext();
    say({ kind: api.SpanKind[span.kind], trace: traceId, span: spanId, parent: span.parentSpanContext?.spanId });
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
