import subprocess
import sys
from dataclasses import replace

import pytest

from plait.rounds.participant import Participant
from plait.wire.messages import DescribeTask, Refusal, RefusalReason, decode_reply, encode_task

HELD_BACK = ({"secure_aggregation": True}, {"record_delta": 1e-5, "record_epsilon": 8.0}, {"client_noise": 1.0})


@pytest.mark.slow
def test_a_client_in_the_open_brings_no_part_of_a_feature_along():
    code = (
        "import sys, plait.rounds.participant; "
        "print([name for name in sys.modules if name.startswith(('plait.secagg', 'plait.privacy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("settings", HELD_BACK)
def test_a_client_in_the_open_takes_no_part_where_something_is_held_back(federate, settings):
    federation = federate()
    bob = Participant("bob", federation.models["bob"], federation.memories["bob"])
    task = DescribeTask(replace(federation.plan.settings, **settings), federation.spec.text)
    reply = decode_reply(bob.answer(b"".join(encode_task(task))), max_bytes=1 << 20)
    assert isinstance(reply, Refusal)
    assert reply.reason is RefusalReason.POLICY
    assert "expected a run in the open" in bob.refusal
    assert not federation.memories["bob"]
