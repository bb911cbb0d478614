import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from client import contexts
from client.contexts import ContextParticipants, Lasting
from client.settings import memory_folder
from plait.adapters import AdapterState, Layout
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.policy import Policy
from plait.run import blueprint_of
from plait.settle import settle
from plait.training.bases import locate_base
from plait.trust.keys import NodeKey, verify
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, seal
from plait.wire.messages import ClientCard, DescribeTask, Refusal, TrainTask, decode_reply, encode_task

SETTINGS = settle(RunConfig(base="tiny")).plan.settings


@dataclass
class Client:
    """Keeps a spec when it is asked to describe itself, a residual when it trains."""

    name = "ada"
    policy = Policy()

    def participant(self, memory):
        def answer(task_bytes):
            key = "spec" if task_bytes == DESCRIBE else "residual"
            before = memory.load(key) or b""
            memory.save(key, before + b".")
            return before

        return SimpleNamespace(answer=answer)


def train(run_id: bytes) -> bytes:
    header = Header(
        direction=Direction.BROADCAST, client="", run_id=run_id, round=1, base_fingerprint=bytes(32),
        spec_digest=bytes(32), result_digest=bytes(32),
    )  # fmt: skip
    delta = AdapterState(Layout.of({"a": (2, 2)}), np.zeros(4, np.float32))
    return b"".join(encode_task(TrainTask(SETTINGS, seal(header, encode_delta(delta, codec_for("fp32"))).data)))


DESCRIBE = b"".join(encode_task(DescribeTask(SETTINGS, "{}")))
ONE, OTHER = bytes([1]) * 16, bytes([2]) * 16


@pytest.fixture
def answer(tmp_path: Path):
    return lambda flower_run, task: Lasting(Client(), tmp_path, flower_run).answer(task)


@pytest.mark.slow
def test_a_run_that_goes_on_under_another_number_of_flowers_finds_its_state(answer):
    assert [answer(7, task) for task in (DESCRIBE, train(ONE), train(ONE))] == [b"", b"", b"."]
    assert [answer(8, task) for task in (DESCRIBE, train(ONE))] == [b"", b".."]


def test_another_run_begins_without_it(answer):
    answer(7, train(ONE))
    assert answer(8, train(OTHER)) == b""


TAKES_ITS_TIME = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from client.contexts import Lasting
from plait.policy import Policy

def answer(task_bytes):
    print("at work", flush=True)
    return sys.stdin.readline().encode()

client = SimpleNamespace(name="ada", policy=Policy(), participant=lambda memory: SimpleNamespace(answer=answer))
print(Lasting(client, Path(sys.argv[1]), 7).answer(b"a task"), flush=True)
"""


@pytest.mark.slow
def test_a_second_process_waits_for_the_state_of_a_client_at_work_but_not_forever(answer, tmp_path, monkeypatch):
    command = [sys.executable, "-c", TAKES_ITS_TIME, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as first:
        assert first.stdout.readline() == "at work\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(contexts, "_PATIENCE_S", 0)
            in_use = f"of 'ada' is in use by process {first.pid}, expected one node per name"
            with pytest.raises(ConfigError, match=in_use):
                answer(7, train(ONE))
        # A task that comes while an earlier one still runs is done after it.
        waits = []
        with monkeypatch.context() as waiting:
            waiting.setattr("client.settings.time.sleep", lambda _: waits.append(first.communicate("done\n")))
            assert answer(7, train(ONE)) == b""
        assert len(waits) == 1


@pytest.mark.slow
def test_a_changed_policy_is_read_at_the_next_task(tmp_path, monkeypatch):
    made, policy = [], tmp_path / "policy.toml"
    monkeypatch.setattr(contexts, "OwnClient", lambda *_, **settings: made.append(settings["policy"]) or Client())
    (tmp_path / "ada.jsonl").write_text('{"text": "one"}\n')
    node = {"data": str(tmp_path / "ada.jsonl"), "state": str(tmp_path), "policy": str(policy)}
    context = Context(run_id=7, node_id=5, node_config=node, state=RecordDict(), run_config={"base": "tiny"})
    participants = ContextParticipants()
    for text in ("max-local-steps = 5", "max-local-steps = 5", "max-local-steps = 4"):
        policy.write_text(text)
        participants(context)
    assert [each.max_local_steps for each in made] == [5, 4]


def test_a_node_without_data_says_how_to_name_them():
    with pytest.raises(ConfigError, match=r"names no data; give --node-config 'data=\"FILE\.jsonl\"'"):
        ContextParticipants()(Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"number {number} of some lines\n" * 4}) + "\n" for number in range(40))
    )
    return path


CONFIG = RunConfig(base="tiny", seq_len=32, rank=2, device="cpu", dtype="float32")


def context_of(node_config: dict[str, str], run: int = 7, config: RunConfig = CONFIG) -> Context:
    table = config.to_table()
    if data := node_config.get("data"):
        # The run is smaller than what the default policy takes.
        policy = Path(data).with_name("policy.toml")
        policy.write_text("min-tokens = 128\n")
        node_config = {**node_config, "policy": str(policy)}
    return Context(run_id=run, node_id=5, node_config=node_config, state=RecordDict(), run_config=table)  # type: ignore[arg-type]


def described(context: Context, config: RunConfig = CONFIG) -> tuple[bytes, str]:
    """What a node says of itself, and the spec that it was told."""
    spec = blueprint_of(settle(config), locate_base("tiny").directory).spec
    task = b"".join(encode_task(DescribeTask(settle(config).plan.settings, spec.text)))
    return ContextParticipants()(context).answer(task), spec.text


def test_a_node_keeps_its_state_on_disk_under_run_and_name(data, tmp_path):
    state = tmp_path / "state"
    context = context_of({"data": str(data), "name": "ada", "state": str(state)})
    answer, spec = described(context)
    card = decode_reply(answer, max_bytes=1 << 20)
    assert isinstance(card, ClientCard)
    assert card.client == "ada"
    assert (memory_folder(state, 7, "ada") / "spec").read_text() == spec
    assert len(context.state) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "labels", "told"),
    [
        ({"author": "CANARY"}, "", {}),
        ({"label": "sport", "author": "CANARY"}, "sport,tech", {"sport": 40}),
        ({"label": "CANARY"}, "sport,tech", "not one of the run's labels: sport, tech"),
    ],
)
def test_of_its_own_data_a_node_tells_no_more_than_the_runs_labels(tmp_path, record, labels, told):
    path = tmp_path / "my.jsonl"
    records = [{**record, "text": f"{number} of a few words of text " * 9} for number in range(40)]
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    config = CONFIG.model_copy(update={"labels": labels})
    context = context_of({"data": str(path), "name": "ada"}, config=config)
    answer, _ = described(context, config)
    reply = decode_reply(answer, max_bytes=1 << 20)
    if isinstance(told, str):
        assert isinstance(reply, Refusal)
        assert told in reply.detail
    else:
        assert isinstance(reply, ClientCard)
        assert reply.histogram == told
    assert b"CANARY" not in answer


@pytest.mark.slow
def test_updates_are_signed_with_the_nodes_key(data, tmp_path):
    key = NodeKey.generate()
    key.save(tmp_path / "node.key")
    participant = ContextParticipants()(
        context_of({"data": str(data), "name": "ada", "key": str(tmp_path / "node.key")})
    )
    sign = participant.way.sender.sign
    assert verify(key.public_bytes, sign(b"update"), b"update")
    assert ContextParticipants()(context_of({"data": str(data)})).way.sender.sign is None
