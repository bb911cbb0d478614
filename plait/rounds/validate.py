"""Checks of an answer before it counts: what its header claims, and how large an update may be.

**The largest allowed update.** Four figures are bounded separately. `A` and `B` are the root mean squares of the change
of all factors of that side; they catch the gauge attack, (B / c)(c A), which is honest in its product but makes the
mean of the factors as large as c. `product` is the Frobenius norm of the change of all scale * B A, and catches factors
that are each within their bounds but conspire. `other` is the root mean square of everything else.

A figure may be at most `factor` times the median of the round's figures and of the medians of recent rounds; zeros do
not count. So a minority of attackers cannot move the bound, and it does not depend on who answered first.

**Weights by examples**: a client's number of examples cannot be checked, so none weighs more than ten times the lower
median of its round.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout, add
from plait.aggregation import Geometry, Side
from plait.errors import PeerError
from plait.ledger.events import Reason
from plait.rounds.evaluation import FIGURES as FIGURES_OF_LOSS
from plait.rounds.evaluation import client_losses
from plait.wire.envelope import EPSILON, Direction, Opened, Received, read_envelope, unpack
from plait.wire.messages import ClientCard, Evaluation

if TYPE_CHECKING:
    from plait.rounds.metrics import RunMetrics
Norms: TypeAlias = Mapping[str, float]
"""The figures of one update, or the medians of a round, by name; see the module's docstring."""

FIGURES = (Side.A.value, Side.B.value, "product", "other")

HISTORY = 5
"""Number of rounds whose medians are remembered."""

# With fewer figures a median cannot tell which one is the outlier.
_FEWEST = 3
_TRIES = 64


class NormPolicy(StrEnum):
    """What happens to an update beyond the bound."""

    REJECT = "reject"
    CLIP = "clip"
    OFF = "off"


@dataclass(frozen=True)
class NormBound:
    """The bound of a run."""

    policy: NormPolicy = NormPolicy.REJECT
    factor: float = 10.0

    @classmethod
    def named(cls, text: str) -> "NormBound":
        """The bound that `--norm-bound` names: ``10``, ``clip:10`` or ``off``."""
        if text == NormPolicy.OFF:
            return cls(NormPolicy.OFF)
        clip, _, factor = text.rpartition(":")
        return cls(NormPolicy.CLIP if clip else NormPolicy.REJECT, float(factor))

    def limits(self, cohort: Collection[Norms], history: Sequence[Norms]) -> Norms:
        """The largest value of each figure; infinite if there are too few to tell."""
        if self.policy is NormPolicy.OFF:
            return dict.fromkeys(FIGURES, math.inf)
        limits: dict[str, float] = {}
        for figure in FIGURES:
            values = [norms[figure] for norms in (*cohort, *history) if norms.get(figure)]
            limits[figure] = self.factor * float(np.median(values)) if len(values) >= _FEWEST else math.inf
        return limits


def measure(delta: AdapterState, received: AdapterState, geometry: Geometry) -> dict[str, float]:
    """The figures of an update."""
    squares = dict.fromkeys(FIGURES, 0.0)
    for pairs in geometry.alike:
        views = pairs.a_of(received.flat), pairs.a_of(delta.flat), pairs.b_of(received.flat), pairs.b_of(delta.flat)
        a, da, b, db = (np.asarray(view, np.float64, order="C") for view in views)
        b += db
        da_da, db_db = da @ _turned(da), _turned(db) @ db
        squares[Side.A.value] += float(np.trace(da_da, axis1=1, axis2=2).sum())
        squares[Side.B.value] += float(np.trace(db_db, axis1=1, axis2=2).sum())
        # ||(B + dB)(A + dA) - B A||^2 = ||(B + dB) dA + dB A||^2, from the inner products of thin factors.
        inner = (_turned(b) @ b) * da_da + 2 * (_turned(b) @ db) * (da @ _turned(a)) + db_db * (a @ _turned(a))
        squares["product"] += float(pairs.scales**2 @ np.maximum(inner.sum(axis=(1, 2)), 0.0))
    others = geometry.others_of(delta.flat).astype(np.float64).ravel()
    squares["other"] = float(others @ others)
    sizes = {side.value: geometry.side_size(side) for side in Side}
    sizes |= {"product": 1, "other": geometry.others_size}
    return {figure: math.sqrt(squares[figure] / sizes[figure]) if sizes[figure] else 0.0 for figure in FIGURES}


def beyond(norms: Norms, limits: Norms) -> str | None:
    """The first figure beyond its limit, as text; None if all are within."""
    for figure in FIGURES:
        if not norms[figure] <= limits[figure]:
            return f"norm of {figure} is {norms[figure]:.4g}, expected at most {limits[figure]:.4g}"
    return None


def clipped(delta: AdapterState, received: AdapterState, geometry: Geometry, limits: Norms) -> AdapterState:
    """The delta, scaled down until every figure is within its limit; unchanged if all are."""
    for _ in range(_TRIES):
        norms = measure(delta, received, geometry)
        if beyond(norms, limits) is None:
            return delta
        # Factors scale linearly, the product between linearly and quadratically. Rounding needs a small margin.
        linear = [limits[figure] / norms[figure] for figure in FIGURES if norms[figure] and figure != "product"]
        product = math.sqrt(limits["product"] / norms["product"]) if norms["product"] else 1.0
        delta = AdapterState(delta.layout, delta.flat * np.float32((1 - 1e-3) * min(1.0, product, *linear)))
    return AdapterState.zeros(delta.layout)


def remembered(history: Sequence[Norms], accepted: Collection[Norms], limits: Norms) -> tuple[Norms, ...]:
    """The history after a round: the medians of the folded updates are added; clipped figures count as their limit."""
    medians: dict[str, float] = {}
    for figure in FIGURES:
        values = [min(norms[figure], limits[figure]) for norms in accepted if norms[figure]]
        medians[figure] = float(np.median(values)) if values else 0.0
    return (*history, medians)[-HISTORY:]


def _turned(each: NDArray[np.float64]) -> NDArray[np.float64]:
    return each.transpose(0, 2, 1)


WEIGHT_RATIO = 10.0
"""The largest weight, as a multiple of the round's median."""


def bounded(examples: Mapping[str, int]) -> dict[str, float]:
    """The weights of a round's clients."""
    limit = WEIGHT_RATIO * statistics.median_low(examples.values())
    return {client: min(float(count), limit) for client, count in examples.items()}


# Far beyond any honest figure, and far below the point where sums of such figures stop being exact or finite.
LARGEST_FIGURE = 2.0**53
# No mean of such adapters, nor the difference of two, leaves float32 (which ends near 2^128).
_LARGEST_ELEMENT = 2.0**120


class RefusedUpdateError(PeerError):
    """An answer that the round continues without."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Expected:
    """The expected header of one client's update in one round.

    Attributes:
        examples: the client's own statement; None if that was checked before.
        public_key: its Ed25519 key, 32 bytes, if it proved to hold one: the update must then be signed with it.
        epsilon: the most that its records may have cost: the update must then report what they have, and nothing else
            of its training; None where they are not private.
    """

    run_id: bytes
    round: int
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    received: AdapterState
    examples: int | None = None
    public_key: bytes = b""
    epsilon: float | None = None


def open_update(data: bytes, expected: Expected) -> Opened:
    """Read and decode an update and check all its claims."""
    try:
        received = read_envelope(data, max_bytes=max_update_bytes(expected.received.layout))
    except PeerError as error:
        raise RefusedUpdateError(Reason.MALFORMED, str(error)) from error
    return check_update(received, expected)


def check_update(received: Received, expected: Expected) -> Opened:
    """Check everything that an update claims, and decode it."""
    header = received.header
    if header.direction != Direction.UPDATE:
        raise RefusedUpdateError(Reason.DIRECTION, "envelope is a broadcast and no update")
    for reason, what, got, wanted in (
        (Reason.WRONG_CLIENT, "client of the update", header.client, expected.client),
        (Reason.WRONG_ROUND, "round of the update", header.round, expected.round),
        (Reason.WRONG_RUN, "run", header.run_id, expected.run_id),
        (Reason.WRONG_BASE, "base", header.base_fingerprint, expected.base_fingerprint),
        (Reason.WRONG_SPEC, "adapter spec", header.spec_digest, expected.spec_digest),
        (Reason.WRONG_REFERENCE, "starting adapter", header.relative_to, expected.received.digest()),
    ):
        _check_same(reason, what, got, wanted)
    if expected.public_key:
        _check_signature(received, expected)
    if expected.examples is not None:
        _check_same(Reason.WEIGHT, "number of examples", header.examples, expected.examples)
    _check_figures(header.metrics)
    if expected.epsilon is not None:
        _check_epsilon(header.metrics, expected.epsilon)
    try:
        opened = unpack(received, layout=expected.received.layout)
    except PeerError as error:
        raise RefusedUpdateError(Reason.MALFORMED, str(error)) from error
    _check_size(opened.delta, expected.received)
    return opened


def check_evaluation(
    evaluation: Evaluation, card: ClientCard, round_number: int, metrics: "RunMetrics | None" = None
) -> None:
    """Check a client's evaluation against its earlier statements."""
    _check_same(Reason.WRONG_CLIENT, "client of the evaluation", evaluation.client, card.client)
    _check_same(Reason.WRONG_ROUND, "round of the evaluation", evaluation.round, round_number)
    if evaluation.examples != card.held_out_examples or not 0 < evaluation.tokens <= card.held_out_tokens:
        raise RefusedUpdateError(
            Reason.WEIGHT,
            f"evaluation counts {evaluation.examples} examples and {evaluation.tokens} tokens, expected "
            f"{card.held_out_examples} and 1 to {card.held_out_tokens}",
        )
    _check_figures({name.replace("_", " "): each for name, each in vars(evaluation).items() if isinstance(each, float)})
    shared, own = client_losses(evaluation)
    if any(each and each.change is None and each.change_error is not None for each in (shared, own)):
        raise RefusedUpdateError(Reason.FIGURE, "evaluation gives the standard error of a change but not the change")
    if shared.reward_margin is not None and shared.correct is None:
        raise RefusedUpdateError(Reason.FIGURE, "evaluation gives a reward margin but not how many rewards are right")
    if own is None:
        is_half = any(getattr(evaluation, f"own_{name}") not in (None, {}) for name in FIGURES_OF_LOSS)
    else:
        beside = ((own.correct, shared.correct), (own.reward_margin, shared.reward_margin))
        is_half = any((one is None) is not (other is None) for one, other in beside)
    if is_half:
        raise RefusedUpdateError(Reason.FIGURE, "evaluation gives only half of the figures of the client's own adapter")
    try:
        for each in (shared, own) if own else (shared,):
            if metrics:
                metrics.check(each.metric_sums, least=evaluation.examples, most=evaluation.examples)
            elif each.metric_sums:
                raise PeerError("evaluation gives sums of metrics, but the run has no metrics")
    except PeerError as error:
        raise RefusedUpdateError(Reason.FIGURE, str(error)) from error


def _check_same(reason: Reason, what: str, got: object, wanted: object) -> None:
    if got != wanted:
        found, named = (each.hex()[:16] if isinstance(each, bytes) else repr(each) for each in (got, wanted))
        raise RefusedUpdateError(reason, f"{what} is {found}, expected {named}")


def _check_signature(received: Received, expected: Expected) -> None:
    if not received.signature:
        raise RefusedUpdateError(Reason.SIGNATURE, f"update of {expected.client!r} is not signed by its key")
    from plait.trust.keys import verify  # no simulated client has a key

    if not verify(expected.public_key, received.signature, received.signed):
        raise RefusedUpdateError(Reason.SIGNATURE, f"signature on the update of {expected.client!r} is not its key's")


def _check_figures(figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        least = 0 if name in ("train_tokens", "refused_completions") else -LARGEST_FIGURE
        if not least <= value <= LARGEST_FIGURE:
            raise RefusedUpdateError(Reason.FIGURE, f"{name} is {value:g}, expected {least:g} to {LARGEST_FIGURE:g}")


def _check_epsilon(figures: Mapping[str, float], most: float) -> None:
    spent = figures.get(EPSILON)
    if spent is None or len(figures) > 1:
        metrics = ", ".join(sorted(figures)) or "nothing"
        raise RefusedUpdateError(
            Reason.FIGURE, f"update reports {metrics} of its training; only {EPSILON} may leave a client here"
        )
    if not 0 <= spent <= most * (1 + 1e-9):
        raise RefusedUpdateError(Reason.FIGURE, f"{EPSILON} is {spent:g}, expected 0 to {most:g}")


def _check_size(delta: AdapterState, received: AdapterState) -> None:
    if delta.is_small and received.is_small:
        return
    with np.errstate(over="ignore"):
        flats = (delta.flat, add(received, delta).flat)
        largest = max(max(flat.max(initial=0), -flat.min(initial=0)) for flat in flats)
    if not largest <= _LARGEST_ELEMENT:
        raise RefusedUpdateError(
            Reason.OVERFLOW, f"largest element is {largest:g}, expected at most {_LARGEST_ELEMENT:g}"
        )


def max_update_bytes(layout: Layout) -> int:
    """The most bytes that an update of this layout may have: exact float32 and 64 kB for everything else."""
    return 4 * layout.size + 65536
