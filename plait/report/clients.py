"""The tables of a run's clients: their losses, how evenly they are served, stale updates, and who could not take part.

In figures of fairness every client counts once, however much data it has.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev

from plait.ledger.events import DescribedClient, MeanScore, Score, UpdateReceived
from plait.ledger.run_view import RunView
from plait.report.table import Table, shown_of
from plait.report.wording import (
    change_text,
    clean,
    count_text,
    loss_text,
    metric_texts,
    minus_text,
    moved_text,
    percent_text,
    reward_text,
)

_ALL_ARE_OWN = "Losses are of clients' personalized adapters; the published adapter is the shared part."
_OWN = "own: each client's personalized adapter (plait export RUN DIR --client NAME)."
_OF_CLIENTS = "Losses on each client's own held-out data; every client counts once, whatever its size."
_MOST_CLIENTS = 250
_MOST_REFUSALS = 50


def loss_by_client_table(view: RunView) -> Table:
    """Each client's own held-out loss, base against newest adapter, with the baselines; by name."""
    base, final, own = view.base_evaluation, view.final_evaluation, view.own_evaluation
    references = [reference for reference in view.references.values() if reference.by_client]
    # Of clients in a private run the ledger has names alone.
    names = [] if any(card.hides_clients for card in view.cards.values()) else sorted(view.client_names)
    if len(names) > _MOST_CLIENTS:
        names = sorted(sorted(names, key=lambda name: -_gain(base, final, name))[-_MOST_CLIENTS:])

    def columns(name: str) -> dict[str, str]:
        before, after, alone = _of(base, name), _of(final, name), _of(own, name)
        client = view.clients.get(name, DescribedClient(client=name))
        found = {
            "client": name,
            "base": loss_text(before.loss if before else None),
            "federated": loss_text(after.loss if after else None),
            "change": moved_text(after, before),
        }
        if view.accuracy_name:
            found[view.accuracy_name] = percent_text(after.accuracy if after else None)
        if view.has_reward_margins:
            found["margin"] = reward_text(after.reward_margin if after else None)
        found |= metric_texts(view.metric_names, after and after.metrics)
        if minus := view.learned.loss_is_minus:
            found[minus] = minus_text(after.loss if after else None)
        if own:
            found["own"] = loss_text(alone.loss if alone else None)
        if view.judged:
            judged = _of(view.judged, name)
            found["final figure"] = loss_text(judged.loss if judged else None)
        found |= {reference.kind: loss_text(reference.by_client.get(name)) for reference in references}
        return found | {
            "training tokens": count_text(client.train_tokens),
            "held-out sequences": count_text(client.held_out_examples),
        }

    left_out = shown_of(len(names), len(view.client_names), "clients, those that gained least")
    whose = _ALL_ARE_OWN if view.is_personal else _OWN if own else ""
    return Table.of_columns(
        "Held-out loss by client",
        [columns(name) for name in names] if base or final or view.clients else [],
        note=f"{left_out} {whose}".strip(),
    )


def _of(evaluation: MeanScore | None, name: str) -> Score | None:
    return evaluation.by_client.get(name) if evaluation else None


def _gain(base: MeanScore | None, final: MeanScore | None, name: str) -> float:
    before, after = _of(base, name), _of(final, name)
    return before.loss - after.loss if before and after else float("-inf")


@dataclass(frozen=True)
class Fairness:
    """One model, or one model per client, on every client's own held-out data."""

    mean_loss: float  # of the clients' losses, in nats
    spread: float
    worst_client: str  # the one with the highest loss
    worst_loss: float
    least_gaining_client: str | None  # the one whose loss fell least since before round 1; None if unknown
    least_gain: float | None  # how much it fell; below 0 if it rose
    worse_off: int


def fairness(losses: Mapping[str, float], before: Mapping[str, float]) -> Fairness | None:
    """The figures of losses by client, and the same before round 1; None without any."""
    if not losses:
        return None
    # In name order, so that equal losses give the same client each time.
    worst = max(sorted(losses), key=lambda name: losses[name])
    gains = {name: before[name] - losses[name] for name in sorted(losses) if name in before}
    least = min(gains, key=lambda name: gains[name], default=None)
    return Fairness(
        mean_loss=fmean(losses.values()),
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
        loss_text(found.mean_loss),
        loss_text(found.spread),
        loss_text(found.worst_loss),
        clean(found.worst_client),
        change_text(-(found.least_gain or 0.0)) if after else "",
        clean(found.least_gaining_client or ""),
        count_text(found.worse_off) if after else "",
    )


def _before(view: RunView) -> dict[str, float]:
    return _losses(view.base_evaluation) if view.base_evaluation else {}


def _losses(evaluation: MeanScore) -> dict[str, float]:
    return {name: score.loss for name, score in evaluation.by_client.items()}


def staleness_table(view: RunView) -> Table:
    """Per client: updates, their staleness, and their part of the weights of all updates."""
    updates = [update for update in view.updates.values() if update.fold is not None]
    by_client: defaultdict[str, list[UpdateReceived]] = defaultdict(list)
    for update in updates:
        by_client[update.client].append(update)
    # Not fold by fold: a fold moves the further, the more the updates in it weigh.
    weight = sum(update.weight or 0.0 for update in updates)

    def row(client: str) -> tuple[str, ...]:
        own = by_client[client]
        ages = [update.staleness or 0 for update in own]
        part = sum(update.weight or 0.0 for update in own) / weight
        return client, count_text(len(own)), f"{fmean(ages):.1f}", str(max(ages)), percent_text(part)

    names = sorted(by_client, key=lambda client: (-len(by_client[client]), client))[:_MOST_CLIENTS]
    more = len(by_client) - len(names)
    return Table(
        title="Staleness",
        headings=("client", "updates", "mean staleness", "largest", "part of the weight"),
        rows=tuple(map(row, names)),
        note="Staleness is the number of rounds that ended while a client trained. Weights account for staleness and "
        "for how often a client came; with --weighting examples, also for examples."
        + (f" Without {more} clients with fewer updates." if more else ""),
    )


def left_out_table(view: RunView) -> Table:
    """Clients that could not take part."""
    shown = [*view.left_out.values()][:_MOST_REFUSALS]
    return Table(
        title="Clients that could not take part",
        headings=("client", "reason", "its message"),
        rows=tuple((each.name, each.reason, each.detail) for each in shown),
        note=shown_of(len(shown), len(view.left_out), "clients, the first ones"),
        text_columns=(0, 1, 2),
    )


def refusals_table(view: RunView) -> Table:
    """Updates that were not accepted."""
    shown = view.refusals[:_MOST_REFUSALS]
    return Table(
        title="Refused updates",
        headings=("round", "client", "reason", "detail"),
        rows=tuple((str(refusal.round), refusal.client, refusal.reason, refusal.detail) for refusal in shown),
        note=shown_of(len(shown), len(view.refusals), "refusals, the first ones"),
        text_columns=(0, 1, 2, 3),
    )
