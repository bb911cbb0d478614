"""A client's base with its own data: `plait.rounds.local_model.LocalModel` by PEFT and torch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import nn

from plait.adapters import AdapterSpec, AdapterState, AdapterTask
from plait.aggregation import geometry_of
from plait.data import Record, RecordKind
from plait.errors import TooLittleDataError
from plait.objectives import SFT, objective_named
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.local_model import Coverage, DataSize, StepReport, Trained, TrainJob
from plait.training.examples import Example, Split, Tokenizer, digest_of, tokens_of, visited
from plait.training.holding_out import HoldingOut
from plait.training.learner import TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters, read_adapter, slot_digest
from plait.training.tokenization import ExampleFormat, tokenise, training_objective
from plait.training.trainer import (
    ROWS,
    TrainingObjective,
    measure_losses,
    only_trained,
    train_steps,
    trained_parameters,
)
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.metrics import RunMetrics

# A user's own local trainer: trains the model's adapter in place (see bridge.py).
OwnTrainer = Callable[[PeftModel, Tokenizer, Sequence[Example], Settings, Sequence[nn.Parameter]], StepReport]

# The losses by the inputs that determine them: remembered, or measured now.
Recall = Callable[[Sequence[bytes], Callable[[], SequenceLosses]], SequenceLosses]

# Makes examples of records, or has them already.
Tokenise = Callable[[Sequence[Record], Tokenizer, ExampleFormat], list[Example]]


@dataclass(eq=False)
class PeftLocalModel:
    """One client: a resident base, the client's records, and a trainer.

    By default part of `records` is held out (`holding_out`), whole groups by the column `group`.
    `histogram` has counts that may be sent: labels or owners, never text.
    """

    base: ResidentBase
    client: str
    records: Sequence[Record]
    _: KW_ONLY
    kind: RecordKind
    histogram: Mapping[str, int]
    group: str = ""
    held_out: Sequence[Record] = ()
    own_trainer: OwnTrainer | None = None
    recall: Recall | None = None
    tokenise: Tokenise = tokenise

    def __post_init__(self) -> None:
        self._split: tuple[object, Split] | None = None
        self._objective: tuple[str, TrainingObjective] | None = None

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        return self.base.fingerprint

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """Derive spec and initial adapter from the server's request."""
        made = self.base.prepare(spec_text)
        return made.spec, made.initial

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Count the data under these settings."""
        self.metrics(spec, settings)
        split = self.split(spec, settings)
        if 0 < settings.round_epochs * len(split.train) < 1 - 1e-9:
            raise TooLittleDataError(
                f"client {self.client!r} has {len(split.train)} training sequences, so that the epochs leave "
                "rounds without any: give more epochs, or fewer rounds"
            )
        if settings.secure_aggregation and settings.judge_part and not split.judge:
            raise TooLittleDataError(
                f"client {self.client!r} has {len(self.records)} records, too few for a judge part, which under masks "
                f"every client must have: expected at least {settings.judge_part}, of many documents or groups"
            )
        return DataSize(
            train_examples=len(split.train),
            train_tokens=tokens_of(split.train),
            held_out_examples=len(split.held_out),
            held_out_tokens=tokens_of(split.held_out),
            histogram=self.histogram,
            cut_examples=split.cut,
            left_out_examples=split.left_out,
            repeated_examples=split.repeated,
            judge_examples=len(split.judge),
            judge_tokens=tokens_of(split.judge),
            groups=len(set(split.groups)),
            identity=self._identity(split),
        )

    def _identity(self, split: Split) -> bytes:
        how = repr((torch.__version__, torch.get_num_threads(), len(split.train))).encode()
        groups = (repr(split.groups).encode(),) if split.groups else ()
        parts = (split.digest, *self.base.identity, how, *groups)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """How much of the data a training visits, in its order."""
        split = self.split(spec, settings)
        met = visited(split.train, replace(settings, seed=data_seed(settings.seed, split)), spec.task)
        different = {example.digest: len(example.tokens) for example in met}
        steps = settings.steps_on(len(split.train))
        most = steps * settings.step_examples * settings.seq_len * objective_named(settings.objective).sequences
        return Coverage(len(different), sum(different.values()), steps, most)

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> SequenceLosses:
        """Held-out losses of `state`."""
        # What a completion is worth may change between runs with the source of the user's own part.
        metrics = self.metrics(spec, settings)
        can_change = bool(objective_named(settings.objective).completions or (metrics and metrics.of_answers))

        def measure() -> SequenceLosses:
            return self.measure_losses(self.base.with_adapter(spec, state), spec, settings)

        if self.recall is None or can_change or state.digest() != self.base.prepare(spec.text).initial.digest():
            return measure()
        held_out, clusters = self.split(spec, settings).measured(judging=settings.judging)
        numbers = repr((settings.batch_size, ROWS, settings.seq_len, torch.get_num_threads())).encode()
        if settings.objective != SFT:
            numbers += settings.objective.encode()
        numbers += repr(metrics).encode() if metrics else b""
        adapter = b"no effect" if _is_without_effect(spec, state) else spec.digest + state.digest()
        inputs = (*self.base.identity, slot_digest(spec), adapter, numbers, digest_of(held_out))
        found = self.recall(inputs, measure)
        return replace(found, clusters=clusters)

    def measure_losses(self, model: nn.Module, spec: AdapterSpec, settings: Settings) -> SequenceLosses:
        """Held-out losses of a model."""
        objective, metrics = self.objective(settings), self.metrics(spec, settings)
        held_out, clusters = self.split(spec, settings).measured(judging=settings.judging)
        if not held_out:
            raise TooLittleDataError(f"client {self.client!r} has no judge part")
        found = objective.measured(model, held_out, settings, self.base.tokenizer) or measure_losses(
            model,
            held_out,
            task=spec.task,
            pad_token=self.base.pad_token,
            batch_size=settings.batch_size,
            objective=objective,
            memory=self.base.step_memory,
            metrics=metrics,
        )
        if metrics and not metrics.classes:
            tokenizer, length = self.base.tokenizer, settings.seq_len
            sums = _answers().sums_of_held_out(found, metrics, model, held_out, tokenizer, seq_len=length)
            found = replace(found, metric_sums=sums)
        return replace(found, clusters=clusters)

    def metrics(self, spec: AdapterSpec, settings: Settings) -> "RunMetrics | None":
        """The run's metrics, if it has some; DataError if these records cannot have them."""
        if not settings.eval_metrics:
            return None
        from plait.rounds.metrics import RunMetrics

        metrics = RunMetrics.of(settings.eval_metrics, len(spec.labels), masked=settings.secure_aggregation)
        if not metrics.classes:
            _answers().check_records(metrics, self.kind)
        return metrics

    def objective(self, settings: Settings) -> TrainingObjective:
        """How this client learns the run's objective."""
        if self._objective is None or self._objective[0] != settings.objective:
            self._objective = settings.objective, training_objective(settings.objective)
        return self._objective[1]

    def split(self, spec: AdapterSpec, settings: Settings) -> Split:
        """The client's examples under these settings, tokenised once."""
        private = settings.records_are_private
        apart = private or not settings.packing
        form = ExampleFormat(self.kind, spec.task, spec.labels, settings.seq_len, settings.objective, apart=apart)
        wanted = (form, settings.held_out_fraction, settings.max_held_out_sequences, settings.judge_part)
        if self._split is None or self._split[0] != wanted:
            how = HoldingOut(
                self.client,
                settings.seq_len,
                settings.held_out_fraction,
                settings.max_held_out_sequences,
                column=self.group,
                packs=self.kind is RecordKind.TEXT and not apart,
                by_label=spec.task is AdapterTask.CLASSIFICATION,
                keeps_repeated=private,
                judge_part=settings.judge_part,
            )
            self._split = (
                wanted,
                how.split(
                    self.records, self.held_out, lambda records: self.tokenise(records, self.base.tokenizer, form)
                ),
            )
        return self._split[1]

    def train(self, job: TrainJob) -> Trained:
        """Train on the client's training part, in an order determined by seed and data."""
        spec, inputs = job.spec, self.inputs(job)
        settings = inputs.settings
        if self.own_trainer is None:
            self.base.plan_steps(spec, settings)
        model = self.base.with_adapter(spec, job.start)
        parameters = adapter_parameters(model, spec.layout)
        memory = self.base.step_memory
        if job.charge:
            from plait.training.private_steps import train_privately

            groups = self.split(spec, settings).groups if settings.group_records else ()
            return train_privately(model, parameters, inputs, job.charge, memory=memory, groups=groups)
        if self.own_trainer is not None:
            trained = trained_parameters(model, parameters, settings.trained)
            chosen = [parameter for parameter, trains in zip(parameters, trained, strict=True) if trains]
            with only_trained(parameters, trained):
                report = self.own_trainer(model, self.base.tokenizer, inputs.examples, settings, chosen)
            return Trained(read_adapter(model, job.start), report)
        return train_steps(model, parameters, inputs, objective=self.objective(settings), memory=memory)

    def inputs(self, job: TrainJob) -> TrainingInputs:
        """The learner's input for a job."""
        split = self.split(job.spec, job.settings)
        settings = replace(job.settings, seed=data_seed(job.settings.seed, split))
        return TrainingInputs(
            split.train,
            settings,
            job.start,
            job.carried,
            task=job.spec.task,
            pad_token=self.base.pad_token,
            tokenizer=self.base.tokenizer,
        )


def _is_without_effect(spec: AdapterSpec, state: AdapterState) -> bool:
    """Whether every B of plain LoRA is zero: the model computes the base's own bits, whatever A is."""
    config, geometry = spec.peft_config, geometry_of(spec)
    is_plain = config.get("peft_type") == "LORA" and not config.get("use_dora") and not geometry.others
    return is_plain and not any(pair.b_of(state.flat).any() for pair in geometry.pairs)


def _answers():
    from plait.training import answers  # with what generates text

    return answers


def data_seed(seed: int, split: Split) -> int:
    """The 63-bit seed: of the data too, so that a server that chooses seeds cannot choose batches."""
    return int.from_bytes(hashlib.sha256(f"{seed}/".encode() + split.digest).digest()[:8], "little") >> 1
