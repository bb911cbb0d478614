"""A run as its ledger tells it: one frozen value that every report reads.

Knows neither events (`fold` reads them) nor how anything is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from plait.adapters import Json, Task


@dataclass(frozen=True)
class Base:
    """The frozen model: its name, fingerprint (hex), number of parameters and task."""

    name: str
    fingerprint: str
    parameters: int | None
    task: str


@dataclass(frozen=True)
class Adapter:
    """What is trained: method, rank, alpha, target modules and how many parameters that makes."""

    method: str
    rank: int | None
    alpha: float | None
    target_modules: Json
    trainable_parameters: int


@dataclass(frozen=True)
class Client:
    """What one client holds; `histogram` counts its examples by label or source, and what is held out is measured."""

    name: str
    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]


@dataclass(frozen=True)
class Diagnostics:
    """How far a round's result is from the exact mean of products, and its clients from each other.

    Attributes:
        error: of the result, as a part of the exact mean's norm.
        covariance: of averaging B and A apart, as a part of the same.
        effective_rank: of the exact mean; None where an older ledger lacks it.
        agreement: 1 where all clients move alike, 1 / sqrt(clients) where at right angles; None likewise.
        drift: by client, how far its product moved.
        update_norms: by client, of its delta.
    """

    error: float
    covariance: float
    effective_rank: float | None
    agreement: float | None
    drift: Mapping[str, float]
    update_norms: Mapping[str, float]


@dataclass(frozen=True)
class Round:
    """A round that was folded into the adapter."""

    number: int
    received: int
    refused: int
    update_norm: float | None
    wall_s: float | None
    adapter: str
    rule: str
    diagnostics: Diagnostics | None


@dataclass(frozen=True)
class Score:
    """Mean loss on held-out data, and accuracy where there are labels. What older records lack is None.

    Attributes:
        loss: nats a token; nats an example for labels.
        accuracy: part of the examples whose label was predicted.
        loss_margin: half of the loss's 95 % interval.
        change: of the loss since before round 1, on the same sequences.
        change_margin: half of the change's 95 % interval.
        accuracy_interval: 95 % interval of the accuracy.
    """

    loss: float
    accuracy: float | None
    loss_margin: float | None = None
    change: float | None = None
    change_margin: float | None = None
    accuracy_interval: tuple[float, float] | None = None

    def change_since(self, before: Score) -> float:
        """How far the loss has moved: on the same sequences where that is known."""
        return self.loss - before.loss if self.change is None else self.change


@dataclass(frozen=True)
class Evaluation:
    """The adapter after `round` (0: the base alone) on held-out data.

    Attributes:
        round: rounds of training that it had.
        mean: over all held-out data.
        by_client: on each client's own.
        sent_bytes: everything sent up to here, both directions.
        own: the same of each client's own adapter; None where clients have none, or not yet.
    """

    round: int
    mean: Score
    by_client: Mapping[str, Score]
    sent_bytes: int
    own: Evaluation | None = None


@dataclass(frozen=True)
class Update:
    """An update that was accepted."""

    round: int
    client: str
    uplink_bytes: int
    tokens: int
    examples: int
    train_loss: float | None
    train_s: float | None
    codec: str
    bits_per_parameter: float | None
    distortion: float | None


@dataclass(frozen=True)
class LeftOut:
    """A client that could not take part, and why: a code, and its own words."""

    client: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Refusal:
    """An update that was not accepted, and why."""

    round: int
    client: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Reference:
    """A baseline trained with the same total steps: ``central`` on pooled data, or ``local``, each client alone.

    Attributes:
        kind: ``central`` or ``local``.
        final: mean loss and accuracy at the end.
        loss_by_round: index = round; None where it was not evaluated.
        loss_by_client: at the end, on each client's held-out data.
        everywhere: of ``local``, mean loss of its adapters on everybody's held-out data; None in older records.
    """

    kind: str
    final: Score
    loss_by_round: tuple[float | None, ...]
    loss_by_client: Mapping[str, float]
    everywhere: float | None = None


@dataclass(frozen=True)
class Traffic:
    """Bytes really sent: `uplink_bytes` client to server, `downlink_bytes` server to client."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Both directions."""
        return self.uplink_bytes + self.downlink_bytes

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.uplink_bytes + other.uplink_bytes, self.downlink_bytes + other.downlink_bytes)


@dataclass(frozen=True)
class RunView:
    """Everything that a report says about a run.

    Attributes:
        run: the run's id.
        name: its name.
        config: all settings under the keys that users write.
        full_model_bytes: the whole model in float32.
        traffic: by (round, client); round 0 is everything before training (describe, evaluation of the base).
        interruptions: how often the run was stopped.
        finished: whether it reached its end; if not, everything here is what it had reached.
        wall_s: working time in seconds, pauses between interruption and resumption left out.
        started_s: when it started, Unix time in seconds.
        last_hash: hash of the ledger's last line, which vouches for every line before it.
    """

    run: str
    name: str
    seed: int
    config: Mapping[str, Json]
    base: Base
    adapter: Adapter
    full_model_bytes: int
    versions: Mapping[str, Json]
    machine: Mapping[str, Json]
    clients: tuple[Client, ...]
    rounds: tuple[Round, ...]
    evaluations: tuple[Evaluation, ...]
    updates: tuple[Update, ...]
    left_out: tuple[LeftOut, ...]
    refusals: tuple[Refusal, ...]
    references: tuple[Reference, ...]
    traffic: Mapping[tuple[int, str], Traffic]
    interruptions: int
    finished: bool
    wall_s: float
    peak_rss_bytes: int | None
    started_s: float
    last_hash: str

    @property
    def is_personal(self) -> bool:
        """Whether clients keep a side of every pair to themselves, so that all losses are of adapters of their own."""
        return self.config.get("rule") == "fedsa"

    @property
    def is_classification(self) -> bool:
        """Whether examples carry labels, so that there is an accuracy."""
        return self.base.task == Task.CLASSIFICATION

    @property
    def planned_rounds(self) -> int:
        """Rounds that were asked for."""
        planned = self.config.get("rounds")
        return planned if isinstance(planned, int) else len(self.rounds)

    @cached_property
    def client_names(self) -> tuple[str, ...]:
        """Every client that was described, evaluated or had an update accepted, in that order."""
        names = [client.name for client in self.clients]
        names += [name for evaluation in self.evaluations for name in sorted(evaluation.by_client)]
        names += [update.client for update in self.updates]
        return tuple(dict.fromkeys(names))

    @property
    def client_rounds(self) -> int:
        """Accepted updates: how often one client took part in one round."""
        return len(self.updates)

    @cached_property
    def sent(self) -> Traffic:
        """All bytes of the run."""
        return sum(self.traffic.values(), Traffic())

    @cached_property
    def traffic_by_round(self) -> Mapping[int, Traffic]:
        """Bytes of every round, all clients together, in round order."""
        total: dict[int, Traffic] = {}
        for (number, _), traffic in sorted(self.traffic.items()):
            total[number] = total.get(number, Traffic()) + traffic
        return total

    @property
    def base_evaluation(self) -> Evaluation | None:
        """The base before any training."""
        return next((evaluation for evaluation in self.evaluations if evaluation.round == 0), None)

    @property
    def final_evaluation(self) -> Evaluation | None:
        """The newest adapter that was evaluated; None before the first round was."""
        return self.evaluations[-1] if self.evaluations and self.evaluations[-1].round > 0 else None

    @property
    def own_evaluation(self) -> Evaluation | None:
        """Each client's own adapter, beside the newest shared one; None where clients have none, or not yet."""
        return self.final_evaluation.own if self.final_evaluation else None

    @property
    def train_tokens_per_s(self) -> float | None:
        """Tokens that a client trains on in a second of its own training time, over all updates."""
        timed = [(update.tokens, update.train_s) for update in self.updates if update.train_s]
        seconds = sum(train_s for _, train_s in timed)
        return sum(tokens for tokens, _ in timed) / seconds if seconds else None
