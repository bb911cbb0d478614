import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.app import Context, Message, Metadata, RecordDict

import client.app
from plait.flower.channel import from_message, to_content

CHECKOUT = Path(__file__).resolve().parents[2]


class Echo:
    def answer(self, task_bytes):
        return b"answer to " + task_bytes


@pytest.mark.slow
def test_the_app_that_ray_carries_to_a_worker_with_every_message_asks_the_participants_that_the_worker_has(monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle")
    carried = cloudpickle.dumps(client.app.app)
    monkeypatch.setattr(client.app, "_participants", lambda: lambda _context: Echo())
    metadata = Metadata(
        run_id=1, message_id="one", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=time.time(), ttl=60.0, message_type="train",
    )  # fmt: skip
    message = Message(metadata=metadata, content=to_content(b"a task"))
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    assert from_message(cloudpickle.loads(carried)(message, context)) == b"answer to a task"


@pytest.mark.slow
def test_it_loads_no_torch_before_a_task_comes():
    program = "import sys, client.app; sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=CHECKOUT).returncode == 0
