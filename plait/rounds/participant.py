"""The client's side of a run: decode a task, bring the adapter up to date, train or evaluate, answer.

Knows no torch, no Flower and no socket: the model is a `LocalModel`, and what must outlive one task is in a `Memory`.
Answers carry counts, losses and codes; never text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout, add, check_finite, subtract
from plait.errors import BaseMismatchError, ConfigError, DataError, PeerError, PlaitError
from plait.rounds.broadcasts import take_step
from plait.rounds.error_feedback import encode_with_gain, residual_from_bytes
from plait.rounds.evaluation import ClientLoss
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, EncodedDelta, Header, Opened, open_envelope, read_header, seal
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    Reply,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import Settings
from plait.wire.signature import with_signature


@dataclass(frozen=True)
class DataSize:
    """How much data a client has, in numbers only."""

    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]


@dataclass(frozen=True)
class Trained:
    """What a local training run leaves behind.

    Attributes:
        state: the adapter after it.
        loss: mean training loss over its steps, in nats.
        tokens: tokens that went through the model.
        seconds: how long it took.
    """

    state: AdapterState
    loss: float
    tokens: int
    seconds: float


class LocalModel(Protocol):
    """A base with the client's own data beside it."""

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        ...

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """Derive spec and initial adapter from what a server sent.

        Raises:
            ConfigError: this base cannot carry such an adapter.
            PeerError: it is no spec.
        """
        ...

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Count the data under these settings.

        Raises:
            DataError: there is too little.
        """
        ...

    def train(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> Trained:
        """Train from `state` on the client's training part; `state` is not changed."""
        ...

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> ClientLoss:
        """Held-out loss of `state` on the part that never trains."""
        ...


class Memory(Protocol):
    """What a client keeps between tasks: the newest adapter, its spec, and what its encoder still owes.

    It may be lost: the server then sends the adapter anew, and what was owed is lost with it.
    """

    def load(self, key: str) -> bytes | None:
        """The bytes kept under `key`."""
        ...

    def save(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        ...


class NeedFullError(PeerError):
    """The broadcast is relative to an adapter that this client does not hold."""


class Participant:
    """One client of one run.

    Args:
        name: what the client is called.
        model: base and data.
        memory: what survives between tasks.
        sign: makes a signature of 64 bytes; without it updates are not signed.
        max_task_bytes: larger tasks are refused unread.
    """

    def __init__(
        self,
        name: str,
        model: LocalModel,
        memory: Memory,
        *,
        sign: Callable[[bytes], bytes] | None = None,
        max_task_bytes: int = 1 << 31,
    ) -> None:
        self._name = name
        self._model = model
        self._memory = memory
        self._sign = sign
        self._max_task_bytes = max_task_bytes

    def answer(self, task_bytes: bytes) -> bytes:
        """Do what one task asks; whatever is wrong with it becomes a refusal with a reason code."""
        try:
            return encode_reply(self._work(task_bytes))
        except PlaitError as error:
            return encode_reply(Refusal(self._name, _reason(error), str(error)))

    def _work(self, task_bytes: bytes) -> Reply:
        task = decode_task(task_bytes, max_bytes=self._max_task_bytes)
        if isinstance(task, DescribeTask):
            return self._describe(task)
        header = read_header(task.broadcast, max_bytes=len(task.broadcast))
        spec, state = self._catch_up(header, task.broadcast)
        if isinstance(task, TrainTask):
            return self._train(header, spec, state, task.settings)
        return self._evaluate(header, spec, state, task)

    def _describe(self, task: DescribeTask) -> ClientCard:
        spec, _ = self._model.prepare(task.spec_json)
        # An adapter that is held stays: a server that was restarted asks again and goes on from it.
        self._memory.save("spec", task.spec_json.encode())
        size = self._model.data_size(spec, task.settings)
        return ClientCard(
            client=self._name,
            base_fingerprint=self._model.base_fingerprint,
            spec_digest=spec.digest,
            train_examples=size.train_examples,
            train_tokens=size.train_tokens,
            held_out_examples=size.held_out_examples,
            held_out_tokens=size.held_out_tokens,
            histogram=size.histogram,
        )

    def _train(self, header: Header, spec: AdapterSpec, state: AdapterState, settings: Settings) -> UpdateReply:
        size = self._model.data_size(spec, settings)
        trained = self._model.train(spec, state, settings)
        try:
            check_finite(trained.state)
        except PeerError as error:
            raise PlaitError(f"training diverged: {error}") from error
        encoded = self._encode(header.run_id, settings, subtract(trained.state, state))
        sealed = seal(
            Header(
                direction=Direction.UPDATE,
                run_id=header.run_id,
                round=settings.round,
                client=self._name,
                base_fingerprint=header.base_fingerprint,
                spec_digest=header.spec_digest,
                relative_to=header.result_digest,
                examples=size.train_examples,
                metrics={
                    "train_loss": trained.loss,
                    "train_tokens": float(trained.tokens),
                    "train_s": trained.seconds,
                    "distortion": encoded.encoding.distortion or 0.0,
                    "codec_s": encoded.encoding.codec_s,
                },
            ),
            encoded,
        )
        return UpdateReply(with_signature(sealed.data, self._sign) if self._sign else sealed.data)

    def _encode(self, run_id: bytes, settings: Settings, delta: AdapterState) -> EncodedDelta:
        """Encode a delta with what earlier rounds still owe, and keep what this encoding drops."""
        residual = residual_from_bytes(self._memory.load("residual"), run_id, delta.layout)
        wanted = add(delta, residual.owed_in(settings.round))
        encoded = encode_with_gain(wanted, codec_for(settings.wire))
        left = subtract(wanted, encoded.delta)
        self._memory.save("residual", residual.settled(settings.round, left).to_bytes())
        return encoded

    def _evaluate(self, header: Header, spec: AdapterSpec, state: AdapterState, task: EvaluateTask) -> Evaluation:
        result = self._model.evaluate(spec, state, task.settings)
        return Evaluation(
            client=self._name,
            round=header.round,
            loss=result.loss,
            tokens=result.tokens,
            correct=result.correct,
            examples=result.examples,
        )

    def _catch_up(self, header: Header, broadcast: bytes) -> tuple[AdapterSpec, AdapterState]:
        """The adapter that the server means by `header`, from what is held and what the broadcast carries."""
        if header.direction != Direction.BROADCAST:
            raise PeerError("envelope is an update, expected a broadcast")
        if header.base_fingerprint != self._model.base_fingerprint:
            raise BaseMismatchError(
                f"base of the broadcast is {header.base_fingerprint.hex()[:16]}, "
                f"expected {self._model.base_fingerprint.hex()[:16]}"
            )
        spec_json = header.spec_json or self._recall("spec").decode()
        spec, initial = self._model.prepare(spec_json)
        if spec.digest != header.spec_digest:
            raise NeedFullError(f"adapter spec is {header.spec_digest.hex()[:16]}, held is {spec.digest.hex()[:16]}")
        opened = open_envelope(broadcast, layout=spec.layout)
        state = opened.delta
        if header.relative_to:
            state = self._step(header, opened, (self._held(spec.layout), initial))
        if state.digest() != header.result_digest:
            raise NeedFullError("the adapter after the broadcast is not the one that the server means")
        self._hold(spec_json, state)
        return spec, state

    def _step(self, header: Header, opened: Opened, candidates: Iterable[AdapterState | None]) -> AdapterState:
        for candidate in filter(None, candidates):
            digest = candidate.digest()
            if digest == header.result_digest:
                return candidate
            if digest == header.relative_to:
                return take_step(candidate, opened.delta, opened.encoding.codec)
        raise NeedFullError(f"adapter {header.relative_to.hex()[:16]} is not held here")

    def _recall(self, key: str) -> bytes:
        data = self._memory.load(key)
        if data is None:
            raise NeedFullError(f"nothing is held under '{key}'")
        return data

    def _held(self, layout: Layout) -> AdapterState | None:
        data = self._memory.load("adapter")
        if data is None or len(data) != 4 * layout.size:
            return None
        return AdapterState(layout, np.frombuffer(data, np.float32))

    def _hold(self, spec_json: str, state: AdapterState) -> None:
        self._memory.save("spec", spec_json.encode())
        self._memory.save("adapter", state.flat.tobytes())


def _reason(error: PlaitError) -> RefusalReason:
    if isinstance(error, NeedFullError):
        return RefusalReason.NEED_FULL
    if isinstance(error, BaseMismatchError):
        return RefusalReason.BASE_MISMATCH
    if isinstance(error, DataError):
        return RefusalReason.TOO_LITTLE_DATA
    if isinstance(error, ConfigError):
        return RefusalReason.SPEC_MISMATCH
    if isinstance(error, PeerError):
        return RefusalReason.MALFORMED
    return RefusalReason.FAILED
