"""How evenly clients are served: the worst client, the spread, and the clients that training made worse off.

Every client counts once here, however much data it has. Knows only losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from plait.ledger.events import MeanScore
from plait.ledger.run_view import RunView
from plait.report.table import Table
from plait.report.wording import change_text, clean, count_text, loss_text

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along


_OF_CLIENTS = "Losses on each client's own held-out data; every client counts once, whatever its size."


@dataclass(frozen=True)
class Fairness:
    """One model, or one model per client, on every client's own held-out data.

    Attributes:
        mean: of the clients' losses, in nats.
        worst_client: the one with the highest loss.
        least_gaining_client: the one whose loss fell least since before round 1; None if unknown.
        least_gain: how much it fell; below 0 if it rose.
    """

    mean: float
    spread: float
    worst_client: str
    worst_loss: float
    least_gaining_client: str | None
    least_gain: float | None
    worse_off: int

    def to_json(self) -> dict[str, Json]:
        """For ``summary.json``."""
        return {
            "mean_loss": self.mean,
            "spread": self.spread,
            "worst_client": self.worst_client,
            "worst_loss": self.worst_loss,
            "least_gaining_client": self.least_gaining_client,
            "least_gain": self.least_gain,
            "worse_off": self.worse_off,
        }


def fairness(losses: Mapping[str, float], before: Mapping[str, float]) -> Fairness | None:
    """The figures of one set of losses; None without any.

    Args:
        losses: by client.
        before: the same before round 1.
    """
    if not losses:
        return None
    # In name order, so that equal losses give the same client each time.
    worst = max(sorted(losses), key=lambda name: losses[name])
    gains = {name: before[name] - losses[name] for name in sorted(losses) if name in before}
    least = min(gains, key=lambda name: gains[name], default=None)
    return Fairness(
        mean=fmean(losses.values()),
        spread=pstdev(losses.values()),
        worst_client=worst,
        worst_loss=losses[worst],
        least_gaining_client=least,
        least_gain=None if least is None else gains[least],
        worse_off=sum(gain < 0 for gain in gains.values()),
    )


def fairness_of(view: RunView) -> Fairness | None:
    """Of the newest evaluated adapter."""
    final = view.final_evaluation
    return fairness(_losses(final), _before(view)) if final else None


def fairness_table(view: RunView) -> Table:
    """The run compared with its start and its baselines; empty for a single client."""
    before = _before(view)
    rows = {"before round 1": fairness(before, {}), "federated": fairness_of(view)}
    if view.own_evaluation:
        rows["own"] = fairness(_losses(view.own_evaluation), before)
    rows |= {reference.kind: fairness(reference.by_client, before) for reference in view.references.values()}
    there = [(name, found) for name, found in rows.items() if found is not None]
    return Table(
        title="How evenly clients are served",
        headings=("", "mean", "spread", "worst", "client", "least change", "client", "worse off"),
        rows=tuple(_row(name, found) for name, found in there) if len(before) > 1 and rows["federated"] else (),
        note=_OF_CLIENTS,
        text_columns=(0, 4, 6),
    )


def _row(name: str, found: Fairness) -> tuple[str, ...]:
    after = found.least_gain is not None
    return (
        name,
        loss_text(found.mean),
        loss_text(found.spread),
        loss_text(found.worst_loss),
        clean(found.worst_client),
        change_text(-(found.least_gain or 0.0), 0.0) if after else "",
        clean(found.least_gaining_client or ""),
        count_text(found.worse_off) if after else "",
    )


def _before(view: RunView) -> dict[str, float]:
    return _losses(view.base_evaluation) if view.base_evaluation else {}


def _losses(evaluation: MeanScore) -> dict[str, float]:
    return {name: score.loss for name, score in evaluation.by_client.items()}
