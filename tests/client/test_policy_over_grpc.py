"""A real node, with plait's own app on the tiny base, and a server that departs from what it announced."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.base import open_runner, or_decline
from client.settings import check_settings
from plait.config import RunConfig
from plait.data import as_dataset
from plait.errors import PolicyError
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.run_state import initial_state
from plait.run import resolve
from plait.settle import settle
from plait.v1 import federation_pb2 as pb
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
    decode_reply,
    encode_task,
)
from plait.wire.welcome import welcome_table
from tests.client.conftest import RunningNode
from tests.waiting import until

CONFIG = settle(
    RunConfig(base="tiny", seq_len=32, rank=2, rounds=2, local_steps=2, batch_size=4, clients=1, bits="fp32")
).config


class Server:
    """What an honest server would send, to be changed."""

    def __init__(self, federation, config: RunConfig) -> None:
        self.federation = federation
        run = resolve(settle(config))
        self.base, self.ranks = run.base_fingerprint, run.ranks
        self.tasks, self.plan = run.settled.tasks, run.settled.plan
        self.state = initial_state(b"r" * 16, self.ranks)
        self.sent = len(federation.answers)
        federation.base_fingerprint = self.base
        federation.run_config = json.dumps(welcome_table(config.to_table()))

    def describe(self, spec_text: str = "", **changes: object):
        settings = replace(self.tasks.to_describe(), **changes)
        return self.ask("query", DescribeTask(settings, spec_text or self.ranks.master.spec.text))

    def train(self, *, ranks=None, **changes: object):
        broadcast = Broadcasts(self.state, ranks or self.ranks, self.base).leading_from(b"", 0)
        return self.ask("train", TrainTask(replace(self.tasks.to_train(1, "ada"), **changes), broadcast))

    def evaluate(self, **changes: object):
        broadcast = Broadcasts(self.state, self.ranks, self.base).leading_from(b"", 0)
        return self.ask("evaluate", EvaluateTask(replace(self.tasks.to_evaluate(0), **changes), broadcast))

    def ask(self, message_type: str, task):
        head, body = encode_task(task)
        name = f"{self.sent}.{message_type}.0"
        self.sent += 1
        self.federation.give(name, head, body, message_type=message_type)
        until(lambda: name in self.federation.answers, f"an answer to {name}", patience_s=300.0)
        kind, data = self.federation.answers[name]
        assert kind == pb.CONTENT_PLAIT, data
        return decode_reply(data, max_bytes=1 << 24)


@pytest.fixture
def server(federation) -> Server:
    return Server(federation, CONFIG)


@pytest.fixture
def start(federation, tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    running: list[RunningNode] = []
    data = tmp_path / "ada.jsonl"
    data.write_text(
        "".join(json.dumps({"text": f"line {number} of what ada wrote\n" * 6}) + "\n" for number in range(40))
    )

    def begin(policy: str = "") -> RunningNode:
        # The run is smaller than what the default policy takes.
        (tmp_path / "policy.toml").write_text(f"min-tokens = 256\n{policy}\n")
        settings = check_settings(
            server=f"127.0.0.1:{federation.port}", data=str(data), name="ada", insecure=True, device="cpu",
            dtype="float32", threads=1, state=tmp_path / "state", policy=tmp_path / "policy.toml",
        )  # fmt: skip
        opening = lambda run: open_runner(run, settings, as_dataset(data), progress=lambda _: None)  # noqa: E731
        running.append(RunningNode(settings, lambda run: or_decline(run, "ada", lambda: opening(run))))
        return running[-1]

    yield begin
    for node in running:
        node.node.stop()
        node.end()


def refused(reply, words: str) -> None:
    assert isinstance(reply, Refusal), reply
    assert (reply.reason, words in reply.detail) == (RefusalReason.POLICY, True), reply


@pytest.mark.slow
def test_an_honest_server_gets_its_update_and_another_than_it_announced_gets_none(server, start):
    start()
    assert isinstance(server.describe(), ClientCard)
    for changes, words in (
        ({"local_steps": 1}, "local-steps of the task is 1"),
        ({"round": 3}, "round of the task is 3"),
    ):
        refused(server.train(**changes), words)
    refused(server.describe(seq_len=2), "seq-len of the task is 2")
    refused(server.evaluate(max_held_out_sequences=1), "max-held-out-sequences of the task is 1")
    spec = server.ranks.master.spec
    other = replace(spec, peft_config={**spec.peft_config, "r": 1, "target_modules": ["embed_tokens", "lm_head"]})
    refused(server.describe(other.text), "adapter spec of the task is not one")
    master = replace(server.ranks.master, spec=other)
    refused(server.train(ranks=replace(server.ranks, adapters=(master,))), "adapter spec of the broadcast is")
    assert isinstance(server.train(), UpdateReply)


def test_a_node_whose_policy_forbids_a_run_tells_the_server_why_and_ends(server, start):
    node = start('max-bits = "2"')
    refused(server.describe(), "max-bits of this client's policy allows '2' at most")
    node.end()
    assert isinstance(node.error, PolicyError)
