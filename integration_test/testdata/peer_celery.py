"""A service that uses Celery: peer_celery.py URL OURS PEERS COUNT sends tasks to the queue OURS, makes the queue PEERS, prints
"ready" and then what it understands of so many messages in it, one line of JSON each."""

import json
import sys

import celery
import kombu

url, ours, peers, count = sys.argv[1:]

app = celery.Celery("peer", broker=url)
tasks = kombu.Queue(ours, exchange="", routing_key=ours, no_declare=True)
for compression in None, "gzip":
    app.send_task("orders.place", args=[{"id": 7}], kwargs={"by": compression or "plain"}, compression=compression, queue=tasks)


def read(message):
    """Read a message as Celery does, or return the name of the error."""
    try:
        payload = message.decode()
    except Exception as error:
        payload = type(error).__name__
    print(json.dumps({"id": message.properties.get("message_id"), "payload": payload, "signed": "PikaBus.Signature" in message.headers}), flush=True)
    message.ack()


with kombu.Connection(url) as connection:
    queue = kombu.Queue(peers, exchange="", durable=True, auto_delete=True)
    with connection.Consumer(queue, on_message=read, accept=["json"]):
        print("ready", flush=True)
        for _ in range(int(count)):
            connection.drain_events(timeout=30)
