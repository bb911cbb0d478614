import cloudpickle
from flwr.app import Context, RecordDict

import client.app
from plait.flower.blob import from_message, to_content
from plait.flower.message import instruction


class Echo:
    def answer(self, task_bytes):
        return b"answer to " + task_bytes


def test_the_app_that_ray_carries_to_a_worker_with_every_message_asks_the_participants_that_the_worker_has(monkeypatch):
    carried = cloudpickle.dumps(client.app.app)
    monkeypatch.setattr(client.app, "_PARTICIPANTS", lambda _context: Echo())
    message = instruction(to_content(b"a task"), "train", dst_node_id=2, message_id="one")
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    assert from_message(cloudpickle.loads(carried)(message, context)) == b"answer to a task"
