"""Hands hostile messages to a client's own code, and knows the honest message in the place of each.

Answers are texts: empty if the client obeyed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

from scoreboard.hostile_specs import Honest, Target

from client.base import open_runner
from client.settings import NodeSettings, check_settings
from client.task import ClientTask, OfferedRun, TaskAnswer, TaskRunner
from plait.adapters import BaseReference, save_peft_directory
from plait.adapters.peft_reading import load_peft_directory
from plait.config import RunConfig
from plait.data import as_dataset
from plait.errors import PlaitError
from plait.rounds.participant import Participant
from plait.run import blueprint_of, resolve
from plait.settle import settle
from plait.training.bases import locate_base
from plait.training.blueprint import AdapterTemplate
from plait.training.evaluation import evaluate_adapter
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from plait.v1 import messages_pb2 as mpb
from plait.wire.envelope import open_envelope
from plait.wire.messages import DescribeTask, EvaluateTask, Refusal, TrainTask, UpdateReply, decode_reply, encode_task
from plait.wire.welcome import welcome_table

NAME = "ada"
RUN_ID = 7
CONFIG = RunConfig(base="tiny", rounds=3, clients=2, threads=1)


def write_data(folder: Path) -> Path:
    """The client's own text: a module of the standard library."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.jsonl"
    path.write_text(json.dumps({"text": Path(argparse.__file__).read_text()}) + "\n")
    return path


def write_policy(folder: Path, more: str = "") -> Path:
    """The default policy, but that nothing may be fetched, and what else it is to say."""
    path = folder / "policy.toml"
    path.write_text(f"max-download-gb = 0.0\n{more}")
    return path


class DictMemory(dict[str, bytes]):
    """What a client remembers, in memory."""

    def load(self, key: str) -> bytes | None:
        return self.get(key)

    def save(self, key: str, data: bytes) -> None:
        self[key] = data


class Desk:
    """A client of an honest run, and all that is needed to lie to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        data = write_data(folder)
        self._settings: NodeSettings = check_settings(
            server="localhost:9440", data=str(data), insecure=True, name=NAME, state=folder / "state", threads=1,
            policy=write_policy(folder),
        )  # fmt: skip
        run = resolve(settle(CONFIG))
        self._base, self._blueprint = run.load_base(), blueprint_of(run.settled, run.base.directory)
        self.honest = honest_server(NAME, self._base, self._blueprint)
        self._dataset = dataset = as_dataset(data)
        self._runner = self._welcomed(self.honest.run)
        self._numbers = itertools.count()
        model = PeftLocalModel(self._base, NAME, dataset.records, kind=dataset.kind, histogram={})
        self._participant = Participant(NAME, model, DictMemory())
        self._directory = folder / "adapter"

    def _welcomed(self, run: object) -> TaskRunner:
        return open_runner(
            OfferedRun(RUN_ID, run, b""),
            self._settings,
            self._dataset,
            progress=lambda _: None,  # pyright: ignore[reportArgumentType]
        )

    def before(self, target: Target) -> None:
        """What has to be there before a case, and is no part of it."""
        if target is Target.DIRECTORY:
            shutil.rmtree(self._directory, ignore_errors=True)
            spec, initial = self._blueprint.spec, self._blueprint.initial
            base = BaseReference("tiny", None, self.honest.fingerprint.hex())
            save_peft_directory(self._directory, spec=spec, state=initial, base=base, card="")

    def hand(self, target: Target, made: object) -> str:
        """Hand over what a case made; what the client says to it."""
        match target:
            case Target.SPEC:
                task = mpb.Task.FromString(self.honest.describe)
                task.describe.spec_json = str(made)
                return _refusal(self._participant.answer(task.SerializeToString(deterministic=True)))
            case Target.TASK:
                kind, data = made  # pyright: ignore[reportGeneralTypeIssues]
                return self._node_says(kind, data)
            case Target.DIRECTORY:
                return self._evaluated(made)
            case Target.WELCOME:
                try:
                    self._welcomed(made)
                except PlaitError as error:
                    return str(error) or "refused"
                return ""

    def honest_answer(self) -> str:
        """What the client makes of an honest round, by its digests, having obeyed wherever a case is handed over."""
        self.before(Target.DIRECTORY)
        config = json.loads((self._directory / "adapter_config.json").read_text())
        for target, made in ((Target.SPEC, self.honest.spec), (Target.DIRECTORY, config)):
            if refusal := self.hand(target, made):
                raise TypeError(f"an honest {target} was refused: {refusal}")
        card = self._node_answers("query", self.honest.describe)
        update = decode_reply(self._node_answers("train", self.honest.train), max_bytes=1 << 31)
        if not isinstance(update, UpdateReply):
            raise TypeError(f"an honest task was refused: {update}")
        delta = open_envelope(update.update, layout=self._blueprint.spec.layout).delta
        return f"{hashlib.sha256(card).hexdigest()} {delta.digest().hex()}"

    def _node_says(self, kind: str, data: bytes) -> str:
        answer = self._answer(kind, data)
        return answer.failure or _refusal(answer.data)

    def _answer(self, kind: str, data: bytes) -> TaskAnswer:
        return self._runner.answer(ClientTask(str(next(self._numbers)), kind, "1", data, 0, b""), b"")

    def _node_answers(self, kind: str, data: bytes) -> bytes:
        answer = self._answer(kind, data)
        if answer.failure:
            raise TypeError(f"an honest task was refused: {answer.failure}")
        return answer.data

    def _evaluated(self, config: object) -> str:
        (self._directory / "adapter_config.json").write_text(json.dumps(config))
        try:
            loaded = load_peft_directory(self._directory)
            evaluate_adapter(  # as `plait eval --adapter DIR`
                locate_base("tiny"), loaded, self._dataset, compute=self._base.compute, seq_len=16, batch_size=1,
                max_sequences=1,
            )  # fmt: skip
        except PlaitError as error:
            return str(error) or "refused"
        return ""


def honest_server(client: str, base: ResidentBase, blueprint: AdapterTemplate) -> Honest:
    """What an honest server of the run sends to this client."""
    tasks = settle(CONFIG).tasks
    honest = Honest(
        run=welcome_table(CONFIG.to_table()), spec=blueprint.spec.text, spec_digest=blueprint.spec.digest,
        initial=blueprint.initial, fingerprint=base.fingerprint, run_id=RUN_ID.to_bytes(16, "big"),
    )  # fmt: skip
    broadcast = honest.broadcast()
    return replace(
        honest,
        describe=b"".join(encode_task(DescribeTask(tasks.to_describe(), honest.spec))),
        train=b"".join(encode_task(TrainTask(tasks.to_train(1, client), broadcast))),
        evaluate=b"".join(encode_task(EvaluateTask(tasks.to_evaluate(0), broadcast))),
    )


def _refusal(reply: bytes) -> str:
    said = decode_reply(reply, max_bytes=1 << 31)
    return f"{said.reason.name}: {said.detail}" if isinstance(said, Refusal) else ""
