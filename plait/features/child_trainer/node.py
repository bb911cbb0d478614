"""A node that trains with a program: consent, terms and protocol are plait's own, and no base is here.

Without a base nothing can be derived from the run configuration but the settings, so the specification is checked key
by key, and the layout is the server's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from plait.adapters import AdapterSpec
from plait.errors import BaseMismatchError, ConfigError, DataError, PlaitError, PolicyError
from plait.features.child_trainer.model import ProgramModel
from plait.features.child_trainer.program import Program
from plait.known_features import features
from plait.places import at
from plait.policy import Policy
from plait.rounds.client_way import Speaker, client_way_of
from plait.rounds.disk_memory import DiskMemory
from plait.rounds.participant import Participant
from plait.rounds.terms import Terms
from plait.wire.messages import (
    DescribeTask,
    Refusal,
    RefusalReason,
    UnknownSettingsError,
    decode_task,
    encode_reply,
)

if TYPE_CHECKING:
    from client.journal import Journal
    from client.node import Node
    from client.runner import Run, TaskRunner
    from client.settings import NodeSettings
    from plait.settle import Settled

_CHUNK_BYTES = 1 << 20


@contextmanager
def node_with_program(settings: NodeSettings, journal: Journal, ask: Callable[[], bool] | None) -> Generator[Node]:
    """A node that takes part with a program's training.

    Args:
        ask: asks the operator for consent; None if there is no terminal.

    Raises:
        ConfigError: the command cannot be read.
        DataError: the data are not there.
    """
    from client.node import Node
    from client.process import make_room
    from client.runner import DecliningRunner

    data = Path(settings.data).absolute()
    fingerprint = _fingerprint(data)
    with TemporaryDirectory(prefix="plait-trainer-") as folder:
        program = Program(settings.trainer_exec, Path(folder), data=str(data), memory_bytes=settings.max_memory_bytes)

        def open_for(run: Run) -> TaskRunner:
            make_room(run, settings, journal)
            try:
                return _open(run, settings, program, fingerprint, lambda text: journal.tell("preparing", text), ask)
            except PolicyError as error:
                return DecliningRunner(run, settings.name, error)
            except PlaitError as error:
                if not run.stays:
                    raise
                return DecliningRunner(run, settings.name, error)

        try:
            yield Node(settings, open_for, journal)
        finally:
            program.close()


def _open(
    run: Run,
    settings: NodeSettings,
    program: Program,
    data: str,
    progress: Callable[[str], None],
    ask: Callable[[], bool] | None,
) -> TaskRunner:
    from client.base import consented, journal_of
    from client.identity import identity_of
    from client.runner import Capacity, ParticipantRunner
    from client.state_directory import memory_folder
    from plait.rounds.client_secret import ClientSecret

    journal = journal_of(settings, data)
    memory = DiskMemory(memory_folder(settings.state, run.run_id, settings.name))
    known = ClientSecret.known(memory)
    account = known.account if known else ""
    spent = max((at(each.spent)(journal, account) for each in features() if each.spent), default=0.0)
    settled, policy = consented(
        run,
        settings,
        check=lambda _, settled: _check_trainable(settled),
        parameters=lambda _: None,
        progress=progress,
        ask=ask,
        spent=spent,
    )
    model = ProgramModel(program, memory, program.folder)
    if run.base_fingerprint and model.base_fingerprint != run.base_fingerprint:
        raise BaseMismatchError(
            f"base of the trainer is {model.base_fingerprint.hex()[:16]}, expected {run.base_fingerprint.hex()[:16]}"
        )
    kit = settings.kit
    speaker = Speaker(
        settings.name,
        memory,
        sign=kit.node_key.sign if kit else None,
        identity=partial(identity_of, kit) if kit else None,
        journal=journal,
    )
    participant = ProgramParticipant(speaker, model, settled, policy, settings.max_rank)
    capacity = Capacity(model.base_fingerprint, (settled.method.name,), settings.max_memory_bytes, "a program")
    return ParticipantRunner(participant, capacity=capacity, refusal=lambda: participant.refusal)


@dataclass(eq=False)
class ProgramParticipant:
    """A participant that exists from its first specification on.

    Attributes:
        max_rank: the largest rank that it accepts; 0 for any.
    """

    speaker: Speaker
    model: ProgramModel
    settled: Settled
    policy: Policy
    max_rank: int

    def __post_init__(self) -> None:
        self._participant: Participant | None = None
        if text := self.speaker.memory.load("spec"):
            self._participant = self._with(text.decode())

    @property
    def refusal(self) -> str:
        """Why the newest task was refused; empty if it was not."""
        return self._participant.refusal if self._participant else ""

    def answer(self, task_bytes: bytes) -> bytes:
        """Do a task.

        Raises:
            PeerError: it is not one.
        """
        try:
            task = decode_task(task_bytes, max_bytes=self.policy.max_task_bytes)
            if isinstance(task, DescribeTask):
                self.model.learn(task.spec_json, task.layout)
                self._participant = self._with(task.spec_json)
        except UnknownSettingsError:
            pass  # the participant may hold them
        except PolicyError as error:
            return encode_reply(Refusal(self.speaker.name, RefusalReason.POLICY, str(error)))
        if self._participant is None:
            text = "nothing was described here yet"
            return encode_reply(Refusal(self.speaker.name, RefusalReason.NEED_FULL, text))
        return self._participant.answer(task_bytes)

    def _with(self, spec_text: str) -> Participant:
        spec, _ = self.model.prepare(spec_text)
        self._check(spec)
        speaker, settled = self.speaker, self.settled
        terms = Terms(speaker.name, settled.tasks, (spec,), spec, self.policy)
        speaking = Speaker(
            speaker.name,
            speaker.memory,
            sign=speaker.sign,
            terms=terms,
            identity=speaker.identity,
            journal=speaker.journal,
        )
        return Participant(
            speaker.name,
            self.model,
            speaker.memory,
            max_rank=self.max_rank,
            max_task_bytes=self.policy.max_task_bytes,
            terms=terms,
            way=client_way_of(settled.config, speaking),
        )

    def _check(self, spec: AdapterSpec) -> None:
        """Refuse a specification that does not follow from the run configuration, or touches more than is allowed."""
        config = self.settled.config
        asked = {
            "method": (spec.method, self.settled.method.name),
            "task": (spec.task, self.settled.task),
            "labels": (spec.labels, tuple(config.label_names)),
            "init_seed": (spec.init_seed, config.seed),
        }
        for what, (got, expected) in asked.items():
            if got != expected:
                raise PolicyError(f"{what} of the adapter is {got!a}, expected {expected!a} as the run says")
        if spec.rank is not None and spec.rank not in {config.rank, *config.ranks}:
            raise PolicyError(f"rank of the adapter is {spec.rank}, expected {config.rank} as the run says")
        for name in spec.layout.by_name:
            parts = name.split(".")
            if ("lora_embedding_" in name or self.policy.names_embedding(parts)) and not self.policy.embeddings:
                raise self.policy.refuse_embeddings(name)
            if "lm_head" in parts and not self.policy.output_layer:
                raise self.policy.refuse_output_layer(name)
            self.policy.check_targets([name.partition(".lora_")[0]])


def _check_trainable(settled: Settled) -> None:
    settings = settled.plan.settings
    if settled.rule.moves_base or settings.scaffold or settings.feddyn or settings.records_are_private:
        raise ConfigError(
            f"the run needs more of a trainer than --trainer-exec tells it (rule {settled.rule.name}, drift, dynamic "
            "regularisation or private steps); take part without --trainer-exec"
        )


def _fingerprint(data: Path) -> str:
    """SHA-256 of a file; of a directory, of the names and sizes in it."""
    digest = hashlib.sha256()
    try:
        if data.is_dir():
            for path in sorted(data.rglob("*")):
                digest.update(f"{path.relative_to(data)}\0{path.stat().st_size}\n".encode())
        else:
            with data.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    except OSError as error:
        raise DataError(f"data '{data}' cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
