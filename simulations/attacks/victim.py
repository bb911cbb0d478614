"""A client node with a secret text, as its server meets it: the node's own code, without the network between.

Knows nothing of attacks; whatever the node refuses comes back as a refusal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client.base import open_runner
from client.settings import check_settings
from client.task import ClientTask, OfferedRun
from plait.adapters import AdapterState
from plait.config import Scalar, config_from_table
from plait.data import as_dataset
from plait.run import resolve
from plait.settle import settle
from plait.training.blueprint import AdapterTemplate
from plait.v1 import federation_pb2 as pb
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, seal
from plait.wire.messages import (
    DescribeTask,
    EvaluateTask,
    Refusal,
    RefusalReason,
    Reply,
    TrainTask,
    UpdateReply,
    decode_reply,
    encode_task,
)
from plait.wire.settings import Settings

NAME = "victim"
_RUN_ID = 7
_KINDS = {DescribeTask: "query", TrainTask: "train", EvaluateTask: "evaluate"}


class Victim:
    """A node that was welcomed to a run.

    Args:
        folder: where it keeps its data and its state.
        texts: its records.
        run: what the welcome says of the run.
        options: what its operator asked for, as `plait client` names it.
    """

    def __init__(self, folder: Path, texts: Sequence[str], run: Mapping[str, Scalar], **options: object) -> None:
        folder.mkdir(parents=True)
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        settings = check_settings(
            server="localhost:9440",
            data=str(data),
            insecure=True,
            name=NAME,
            state=folder / "state",
            **options,  # pyright: ignore[reportArgumentType]
        )
        self._runner = open_runner(
            OfferedRun(_RUN_ID, dict(run), b""), settings, as_dataset(data), progress=lambda _: None
        )

    def ask(self, task: DescribeTask | TrainTask | EvaluateTask) -> Reply:
        """What the node answers."""
        head, body = encode_task(task)
        answer = self._runner.answer(ClientTask(os.urandom(4).hex(), _KINDS[type(task)], "1", head + body, 0, b""), b"")
        if answer.kind != pb.CONTENT_PLAIT:
            return Refusal(NAME, RefusalReason.FAILED, answer.data.decode())
        return decode_reply(answer.data, max_bytes=1 << 31)


class HostileServer:
    """What a server knows: the base, the run that it announced, and what the node answers.

    Args:
        run: the run configuration.
    """

    def __init__(self, run: Mapping[str, Scalar]) -> None:
        self.run = resolve(settle(config_from_table(run, where="run")))
        self.base = self.run.load_base()

    def settings(self, round_number: int, **changes: object) -> Settings:
        """The settings of a round as the announced run has them (0: of its first question), but for `changes`."""
        tasks = self.run.settled.tasks
        said = tasks.to_train(round_number, NAME) if round_number else tasks.to_describe()
        return replace(said, **changes)

    def broadcast(self, blueprint: AdapterTemplate, state: AdapterState, round_number: int) -> bytes:
        """A whole adapter, exact."""
        return seal(
            Header(
                direction=Direction.BROADCAST,
                run_id=_RUN_ID.to_bytes(16, "big"),
                round=round_number - 1,
                client="",
                base_fingerprint=self.base.fingerprint,
                spec_digest=blueprint.spec.digest,
                result_digest=state.digest(),
                spec_json=blueprint.spec.text,
            ),
            encode_delta(state, codec_for("fp32")),
        ).data

    def delta_in(self, reply: Reply, blueprint: AdapterTemplate) -> AdapterState | None:
        """What an update says, None where the node refused."""
        if not isinstance(reply, UpdateReply):
            return None
        return open_envelope(reply.update, layout=blueprint.spec.layout).delta
