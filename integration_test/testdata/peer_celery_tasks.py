"""Celery as a peer: peer_celery_tasks.py worker URL QUEUE BACKEND runs the tasks in QUEUE until its input ends, and prints a line of JSON when it
is ready and for each task. With client instead, it sends tasks to QUEUE, and prints a line for each result. BACKEND is rpc:// or disabled://."""

import datetime
import decimal
import json
import sys
import threading
import uuid

import celery
import celery.signals
import celery.worker.state
import kombu

role, url, name, backend = sys.argv[1:]

app = celery.Celery("peer", broker=url, backend=backend)
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_default_queue=name,
    task_queues=[kombu.Queue(name, exchange="", routing_key=name, durable=True)],
    worker_enable_remote_control=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
)
tasks = kombu.Queue(name, exchange="", routing_key=name, no_declare=True)


def say(**what):
    print(json.dumps(what), flush=True)


def ran(task, **arguments):
    r = task.request
    say(task=task.name, arguments=arguments, id=r.id, root=r.root_id, expires=bool(r.expires))


@app.task(name="stock.check", bind=True)
def check(self, order):
    ran(self, order=order)
    if order["id"] == 13:
        raise ValueError("no stock")
    return {"id": order["id"], "left": 3}


@app.task(name="stock.move", bind=True, max_retries=1, default_retry_delay=0)
def move(self, id, to=None, **more):
    ran(self, id=id, to=to, **more)
    if to == "retry" and self.request.retries == 0:
        raise self.retry()
    return {"id": id, "left": self.request.retries}


def send(task, *args, **options):
    return app.send_task(task, args=args, queue=tasks, **options)


summer = datetime.datetime(2026, 6, 28, 9, 25, 56, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


def client():
    send("orders.place", {"id": 1, "backend": backend})
    send("orders.move", 2, kwargs={"to": "Oslo"})
    send("orders.place", {"id": 3}, compression="gzip")
    send("orders.place", {"id": 4}, compression="bzip2")
    send("orders.place", {"id": 5, "at": summer, "price": decimal.Decimal("12.50"), "of": uuid.UUID(int=5)}, countdown=1)
    send("orders.place", {"id": 6}, expires=datetime.datetime(2026, 1, 1))
    if backend != "rpc://":
        return
    for id in 7, 13:
        try:
            result = send("orders.place", {"id": id}).get(timeout=30)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        say(result=result, id=id)


def stop():
    sys.stdin.read()
    celery.worker.state.should_stop = 0


@celery.signals.worker_ready.connect
def ready(**_):
    say(ready=True)


if role == "client":
    client()
else:
    threading.Thread(target=stop, daemon=True).start()
    app.Worker(pool="solo", loglevel="ERROR", without_gossip=True, without_mingle=True, without_heartbeat=True, quiet=True).start()
