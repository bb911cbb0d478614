"""A client's base with its own data beside it: what `plait.rounds.participant` asks for, done with PEFT and torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from peft import PeftModel

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation import Geometry
from plait.data import Record, RecordKind
from plait.rounds.evaluation import ClientLoss
from plait.rounds.moved_base import MovedBase
from plait.rounds.participant import Carried, DataSize, Trained
from plait.training.examples import Example, Split, Tokenizer, split_examples, tokenise
from plait.training.learner import StepReport
from plait.training.resident import ResidentBase, adapter_parameters, read_adapter
from plait.training.trainer import judge, train_steps
from plait.wire.settings import Settings

# Somebody's own local trainer: trains the model's adapter in place (see bridge.py).
OwnTrainer = Callable[[PeftModel, Tokenizer, Sequence[Example], Settings], StepReport]


class PeftLocalModel:
    """One client: a resident base, the client's records, and a trainer.

    Args:
        base: the base, shared by all clients of this process.
        client: name for error messages.
        records: the client's data, in its own order.
        kind: what the records are.
        histogram: counts that may leave the client (labels or sources, never text).
        own_trainer: replaces the built-in trainer.
    """

    def __init__(
        self,
        base: ResidentBase,
        client: str,
        records: Sequence[Record],
        *,
        kind: RecordKind,
        histogram: Mapping[str, int],
        own_trainer: OwnTrainer | None = None,
    ) -> None:
        self._base = base
        self._client = client
        self._records = records
        self._kind = kind
        self._histogram = histogram
        self._own_trainer = own_trainer
        self._split: Split | None = None
        self._split_for: tuple[object, ...] = ()

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        return self._base.fingerprint

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """Derive spec and initial adapter from what a server sent."""
        blueprint = self._base.prepare(spec_text)
        return blueprint.spec, blueprint.initial

    def stand_on(self, base: MovedBase, geometry: Geometry) -> None:
        """Compute on the base as it has moved, from now on."""
        self._base.stand_on(base, geometry)

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Count the data under these settings."""
        split = self.split(spec, settings)
        return DataSize(
            train_examples=len(split.train),
            train_tokens=split.train_tokens,
            held_out_examples=len(split.held_out),
            held_out_tokens=split.held_out_tokens,
            histogram=self._histogram,
        )

    def train(self, spec: AdapterSpec, state: AdapterState, settings: Settings, carried: Carried) -> Trained:
        """Train from `state` on the client's training part."""
        model = self._base.carrying(spec, state)
        split = self.split(spec, settings)
        if self._own_trainer is None:
            done = train_steps(
                model,
                adapter_parameters(model, spec.layout),
                split.train,
                settings,
                start=state.flat,
                task=spec.task,
                pad_token=self._base.pad_token,
                moments=carried.moments,
                drift=carried.drift,
            )
            after, report, moments = AdapterState(spec.layout, done.flat), done.report, done.moments
        else:
            moments = None
            report = self._own_trainer(model, self._base.tokenizer, split.train, settings)
            after = read_adapter(model, state)
        return Trained(after, report.loss, report.tokens, report.seconds, moments)

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> ClientLoss:
        """Held-out loss of `state` on the part that never trains."""
        model = self._base.carrying(spec, state)
        judged = judge(
            model,
            self.split(spec, settings).held_out,
            task=spec.task,
            pad_token=self._base.pad_token,
            batch_size=settings.batch_size,
        )
        return ClientLoss(judged.loss, judged.counted, judged.examples, judged.correct)

    def split(self, spec: AdapterSpec, settings: Settings) -> Split:
        """The client's examples under these settings, tokenised once.

        Raises:
            DataError: there is too little.
        """
        wanted = (spec.task, spec.labels, settings.seq_len, settings.held_out_fraction, settings.max_held_out_sequences)
        if self._split is None or self._split_for != wanted:
            examples = tokenise(
                self._records,
                kind=self._kind,
                task=spec.task,
                labels=spec.labels,
                tokenizer=self._base.tokenizer,
                seq_len=settings.seq_len,
            )
            self._split = split_examples(
                examples,
                client=self._client,
                seq_len=settings.seq_len,
                held_out_fraction=settings.held_out_fraction,
                max_held_out=settings.max_held_out_sequences,
            )
            self._split_for = wanted
        return self._split
