"""A real node, with plait's own app on the tiny base, and a server that departs from what it announced."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.base import open_runner, or_decline
from client.journal import Journal, Style
from client.node import Node, Timing
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

CONFIG = settle(
    RunConfig(base="tiny", seq_len=32, rank=2, rounds=2, local_steps=2, batch_size=4, clients=1, wire="fp32")
).config


class Server:
    """What an honest server would send, to be changed."""

    def __init__(self, federation, wait_until, config: RunConfig) -> None:
        self.federation, self.wait_until = federation, wait_until
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
        self.wait_until(lambda: name in self.federation.answers, f"an answer to {name}", patience_s=300.0)
        kind, data = self.federation.answers[name]
        assert kind == pb.CONTENT_PLAIT, data
        return decode_reply(data, max_bytes=1 << 24)


@pytest.fixture
def server(federation, wait_until) -> Server:
    return Server(federation, wait_until, CONFIG)


@pytest.fixture
def start(federation, tmp_path: Path) -> Iterator[Callable[..., object]]:
    running: list[tuple[Node, threading.Thread]] = []
    data = tmp_path / "ada.jsonl"
    data.write_text(
        "".join(json.dumps({"text": f"line {number} of what ada wrote\n" * 6}) + "\n" for number in range(40))
    )

    class Running:
        error: BaseException | None = None
        asked = 0
        screen: io.StringIO
        thread: threading.Thread

    def begin(*, answer: bool | None = None, policy: str = "", **changes: object) -> Running:
        # The run is smaller than what the default policy takes.
        (tmp_path / "policy.toml").write_text(f"min-tokens = 256\n{policy}\n")
        settings = check_settings(
            server=f"127.0.0.1:{federation.port}", data=str(data), name="ada", insecure=True, device="cpu",
            dtype="float32", threads=1, state=tmp_path / "state", policy=tmp_path / "policy.toml", **changes,
        )  # fmt: skip
        here = Running()
        here.screen = io.StringIO()
        journal = Journal(Style.JSON, here.screen)
        dataset = as_dataset(data)

        def ask() -> bool:
            here.asked += 1
            return bool(answer)

        def opened(run):
            told = lambda text: journal.report("preparing", text)  # noqa: E731
            asked = None if answer is None else ask
            return or_decline(run, "ada", lambda: open_runner(run, settings, dataset, progress=told, ask=asked))

        node = Node(settings, opened, journal, timing=Timing(first_s=0.05, most_s=0.2, progress_s=0.2))

        def run() -> None:
            try:
                node.run()
            except BaseException as error:  # the test looks at it
                here.error = error

        here.thread = threading.Thread(target=run)
        here.thread.start()
        running.append((node, here.thread))
        return here

    yield begin
    for node, thread in running:
        node.stop()
        thread.join()


def refused(reply, words: str) -> None:
    assert isinstance(reply, Refusal), reply
    assert (reply.reason, words in reply.detail) == (RefusalReason.POLICY, True), reply


@pytest.mark.slow
def test_an_honest_server_gets_its_update_and_another_than_it_announced_gets_none(server, start) -> None:
    start()
    assert isinstance(server.describe(), ClientCard)
    for changes, words in (
        ({"local_steps": 1}, "local-steps of the task is 1"),
        ({"batch_size": 1}, "batch-size of the task is 1"),
        ({"seq_len": 8}, "seq-len of the task is 8"),
        ({"wire": "8"}, "wire of the task is 8"),
        ({"seed": 3}, "seed of the task is 3"),
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


def test_a_node_whose_policy_forbids_a_run_tells_the_server_why_and_ends(server, start) -> None:
    node = start(policy='finest-wire = "2"')
    refused(server.describe(), "finest-wire of this client's policy allows '2' at most")
    node.thread.join(180)
    assert isinstance(node.error, PolicyError)
