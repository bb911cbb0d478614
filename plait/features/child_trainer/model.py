"""A program's training as a `LocalModel`: questions in JSON, adapters in safetensors files.

The layout is the server's: nothing here can derive one. Knows no process.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from plait.adapters import AdapterSpec, AdapterState, Layout, parse_spec
from plait.adapters.safetensors_file import write_safetensors
from plait.adapters.safetensors_reading import read_safetensors
from plait.errors import ConfigError, MachineError, PlaitError
from plait.features.child_trainer.program import Program
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.holdings import NeedFullError
from plait.rounds.local_model import Coverage, DataSize, Trained, TrainJob
from plait.rounds.memory import Memory
from plait.rounds.moved_base import UNMOVED, MovedBase
from plait.wire.layouts import unpacked_layout
from plait.wire.settings import Settings

_KEPT = "layout"
_COUNTS = ("train_examples", "train_tokens", "held_out_examples", "held_out_tokens")
_MOST_SEQUENCES = 1 << 20


@dataclass(eq=False)
class ProgramModel:
    """A base and a client's data that a program has.

    Attributes:
        memory: of the client, of one run.
    """

    program: Program
    memory: Memory
    folder: Path
    _sizes: dict[bytes, DataSize] = field(default_factory=dict[bytes, DataSize])
    _fingerprint: bytes = b""

    @property
    def base_fingerprint(self) -> bytes:
        """As the program says it, 32 bytes."""
        if not self._fingerprint:
            said = self.program.ask("describe").get("fingerprint")
            try:
                self._fingerprint = bytes.fromhex(str(said))
            except ValueError:
                self._fingerprint = b""
            if len(self._fingerprint) != hashlib.sha256().digest_size:
                raise MachineError("the trainer gave no fingerprint of its base, expected 64 hexadecimal digits")
        return self._fingerprint

    def learn(self, spec_text: str, layout: bytes) -> None:
        """Keep the layout that the server sent with a specification.

        Raises:
            PeerError: it is no layout.
        """
        if layout:
            self.memory.save(_KEPT, hashlib.sha256(spec_text.encode()).digest() + unpacked_layout(layout).text.encode())

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """The specification with the layout that came with it; initial values are the server's alone, here zeros."""
        kept = self.memory.load(_KEPT) or b""
        if kept[:32] != hashlib.sha256(spec_text.encode()).digest():
            raise NeedFullError("the layout of this specification is not held here")
        spec = replace(parse_spec(spec_text).unbuilt(), layout=Layout.of_text(kept[32:].decode()))
        return spec, AdapterState.zeros(spec.layout)

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """As the program counts it."""
        key = hashlib.sha256(spec.digest + settings.text.encode()).digest()
        if key not in self._sizes:
            said = self.program.ask("describe", spec=spec.to_json(), layout=_layout(spec), settings=_told(settings))
            self._sizes[key] = DataSize(*(_count(said, name) for name in _COUNTS), histogram={})
        return self._sizes[key]

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """As many examples as a training takes, each of the mean length."""
        size = self.data_size(spec, settings)
        visits = settings.steps_taken * settings.batch_size * settings.gradient_accumulation_steps
        examples = min(visits, size.train_examples)
        return Coverage(examples, examples * size.train_tokens // max(1, size.train_examples))

    def train(self, job: TrainJob) -> Trained:
        """Let the program train."""
        carried, began = job.carried, time.monotonic()
        if job.base.digest or job.steps or carried.drift is not None or job.settings.records_are_private:
            raise ConfigError(
                "the run needs a base that moves, drift or private steps, which an external trainer does not support"
            )
        given, back = self.folder / "given.safetensors", self.folder / "back.safetensors"
        write_safetensors(given, dict(job.start.items()))
        back.unlink(missing_ok=True)
        said = self.program.ask(
            "train",
            spec=job.spec.to_json(),
            layout=_layout(job.spec),
            adapter=str(given),
            into=str(back),
            settings=_told(job.settings),
            steps=job.settings.steps_taken,
            seed=job.settings.seed,
        )
        try:
            state = AdapterState.from_tensors(
                job.spec.layout, read_safetensors(back, max_bytes=2 * given.stat().st_size)
            )
        except PlaitError as error:
            raise MachineError(f"the trainer's adapter: {error}") from error
        metrics = said.get("metrics")
        figures = cast("Mapping[str, object]", metrics) if isinstance(metrics, dict) else {}
        tokens = int(_number(figures, "train_tokens"))
        return Trained(state, _number(figures, "train_loss"), max(0, tokens), time.monotonic() - began)

    def evaluate(
        self, spec: AdapterSpec, state: AdapterState, settings: Settings, base: MovedBase = UNMOVED
    ) -> SequenceLosses:
        """Losses and counts of held-out sequences, as the program measures them."""
        if base.digest:
            raise ConfigError("the run moves its base, which an external trainer does not support")
        given = self.folder / "given.safetensors"
        write_safetensors(given, dict(state.items()))
        said = self.program.ask(
            "evaluate", spec=spec.to_json(), layout=_layout(spec), adapter=str(given), settings=_told(settings)
        )
        losses, counts = _numbers(said.get("losses")), _numbers(said.get("counts"))
        if not 0 < len(losses) == len(counts) <= _MOST_SEQUENCES or any(c < 1 or c % 1 for c in counts):
            raise MachineError("the trainer gave no losses, expected as many finite ones as counts of 1 or more")
        return SequenceLosses(losses, tuple(map(int, counts)), digest=hashlib.sha256(str(counts).encode()).hexdigest())


def _layout(spec: AdapterSpec) -> object:
    return json.loads(spec.layout.text)


def _told(settings: Settings) -> object:
    own = {"round": settings.round, "done_steps": settings.done_steps, "trained": settings.trained}
    return json.loads(settings.text) | own


def _count(said: Mapping[str, object], name: str) -> int:
    value = said.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 44:
        raise MachineError(f"the trainer gave {name} {str(value)[:40]!a}, expected a count")
    return value


def _number(said: Mapping[str, object], name: str) -> float:
    value = said.get(name, 0.0)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MachineError(f"the trainer gave {name} {str(value)[:40]!a}, expected a finite number")
    return float(value)


def _numbers(value: object) -> tuple[float, ...]:
    each = cast("list[object]", value) if isinstance(value, list) else []
    are_numbers = all(isinstance(one, (int, float)) and math.isfinite(one) for one in each)
    return tuple(float(cast("float", one)) for one in each) if are_numbers else ()
