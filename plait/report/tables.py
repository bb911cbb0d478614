"""The tables of a run: losses by round and by client, bytes by round, savings, aggregation, refusals.

Each function makes a `Table` of plain text; `report_tables` puts them in reading order and omits empty ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from plait.ledger.events import Audited, DescribedClient, MeanScore, MembershipAttack, Score, UpdateReceived
from plait.ledger.run_now import StatusSection, Traffic
from plait.ledger.run_view import RunView
from plait.report.alternatives import Alternative, all_alternatives, savings
from plait.report.fairness import fairness_table
from plait.report.table import Table
from plait.report.wording import (
    NOTHING,
    accuracy_text,
    bytes_text,
    change_text,
    count_text,
    duration_text,
    loss_text,
    minus_text,
    percent_text,
    perplexity_text,
    plural,
    ratio_text,
    reward_text,
    within_text,
)

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along

_MOST_ROUNDS = 60
_ALL_ARE_OWN = "Losses are of clients' personalized adapters; the published adapter is the shared part."
_OWN = "own: each client's personalized adapter (plait export RUN DIR --client NAME)."
_MOST_CLIENTS = 250
_MOST_REFUSALS = 50

T = TypeVar("T")

_AT_WORK_AT_THE_END = "Clients still at work when the last round ends receive its adapter if they evaluate it."


def report_tables(view: RunView) -> tuple[Table, ...]:
    """Every non-empty table, in reading order."""
    tables = (
        *map(card_table, view.cards.values()),
        *tables_of_parts(view),
        loss_by_round_table(view),
        loss_by_client_table(view),
        fairness_table(view),
        bytes_by_round_table(view),
        savings_table(view),
        aggregation_table(view),
        left_out_table(view),
        refusals_table(view),
        membership_table(view.audited),
    )
    return tuple(table for table in tables if table.rows)


def card_table(card: StatusSection) -> Table:
    """What privacy or masks promise and have done, fact by fact."""
    return Table(title=card.title, headings=("", ""), rows=card.facts, note=card.warning, text_columns=(0, 1))


def tables_of_parts(view: RunView) -> tuple[Table, ...]:
    """The sections of what the run asked for besides the core, and of what its ledger has events of."""
    found: list[Table] = []
    if "rounds-mode" in view.start.config:
        from plait.report.staleness import staleness_table

        found.append(staleness_table(view))
    if "privacy" in view.cards:
        from plait.report.privacy import epsilon_table

        found.append(epsilon_table(view))
    if "client_withdrawn" in view.other_events or "withdrawn" in view.other_events:
        from plait.report.privacy import withdrawal_table

        found.append(withdrawal_table(view))
    return tuple(found)


def shown_first(run: Path) -> tuple[Table, ...]:
    """What a report's first screen and a run's end show of its directory."""
    from plait.report.samples import samples_table

    table = samples_table(run)
    return (table,) if table.rows else ()


def figures_of(view: RunView) -> dict[str, Json]:
    """What parts besides the core add to a run's summary."""
    found: dict[str, Json] = {}
    if "fleet" in view.start.config:
        from plait.ledger.fleet import figures_of as of_fleet

        found |= of_fleet(view)
    if "privacy" in view.cards:
        from plait.report.privacy import figures_of as of_privacy

        found |= of_privacy(view)
    return found


def loss_by_round_table(view: RunView) -> Table:
    """Mean held-out loss after every evaluated round, with the baselines if they were evaluated too."""
    base = view.base_evaluation
    references = [reference for reference in view.references.values() if reference.held_out_loss_by_round]
    shown = _thin([*view.evaluations.values()], _MOST_ROUNDS)
    with_rewards = _has_rewards(view)
    minus = view.learned.loss_is_minus
    train_text = minus_text if minus else loss_text
    rows = tuple(
        (
            _round_text(evaluation.round),
            within_text(loss_text(evaluation.loss), evaluation.loss_margin),
            moved_text(evaluation, base) if base and evaluation.round else "",
            accuracy_text(evaluation.accuracy, evaluation.accuracy_interval)
            if view.accuracy_name
            else minus_text(evaluation.loss)
            if minus
            else perplexity_text(evaluation.loss),
            *((reward_text(evaluation.reward_margin),) if with_rewards else ()),
            train_text(_mean_train_loss(view, evaluation.round)) if evaluation.round else "",
            *(loss_text(_at(reference.held_out_loss_by_round, evaluation.round)) for reference in references),
        )
        for evaluation in shown
    )
    return Table(
        title="Held-out loss by round",
        headings=(
            "round",
            "loss",
            "change",
            view.accuracy_name or minus or "perplexity",
            *(("margin",) if with_rewards else ()),
            f"training {minus or 'loss'}",
            *(reference.kind for reference in references),
        ),
        rows=rows,
        note=" ".join(
            filter(
                None,
                (
                    _left_out(len(rows), len(view.evaluations), "rounds, evenly spaced"),
                    own_text(view),
                    measured_text(view),
                    view.learned.note,
                    _refused_text(view),
                ),
            )
        ),
    )


def _refused_text(view: RunView) -> str:
    """How many completions had no reward; empty for none."""
    refused = sum(update.refused_completions or 0 for update in view.updates.values())
    return f"{plural(refused, 'sampled completion')} had no numeric reward and did not count." if refused else ""


def _has_rewards(view: RunView) -> bool:
    return any(evaluation.reward_margin is not None for evaluation in view.evaluations.values())


def measured_text(view: RunView) -> str:
    """The evaluation data and the meaning of the intervals; empty if unknown."""
    counts = [client.held_out_examples for client in view.clients.values() if client.held_out_examples]
    if not counts or view.base_evaluation is None or view.base_evaluation.loss_margin is None:
        return ""
    fewest, most = min(counts), max(counts)
    each = plural(most, "sequence") if fewest == most else f"{fewest:,} to {plural(most, 'sequence')}"
    evaluated = len(view.base_evaluation.by_client)
    some = f" of {evaluated:,} of {len(view.clients):,} clients" if 0 < evaluated < len(view.clients) else ""
    return (
        f"Measured on {each} per client{some}, held out from training and the same in every round; ± and brackets "
        "are 95 % intervals. The change is compared by sequence, so it is known more precisely than the losses."
    )


def moved_text(after: Score | None, before: Score | None) -> str:
    """The change of a loss, with half of its 95 % interval if known."""
    if after is None or before is None:
        return NOTHING
    return within_text(change_text(after.change_since(before), 0.0), after.change_margin)


def own_text(view: RunView) -> str:
    """A sentence on the losses of personalized adapters; empty if there are none."""
    own = view.own_evaluation
    if own is None:
        return ""
    reached = f"The personalized adapters reach {loss_text(own.loss)}"
    if own.change_margin is not None:
        reached += f" ({moved_text(own, own)})"
    reached += " on their clients' own data"
    if own.accuracy is not None:
        reached += f" ({view.accuracy_name or 'accuracy'} {accuracy_text(own.accuracy, own.accuracy_interval)})"
    alone = next((reference for reference in view.references.values() if reference.kind == "local"), None)
    return f"{reached}, the local-only baseline {loss_text(alone.final.loss)}." if alone else f"{reached}."


def loss_by_client_table(view: RunView) -> Table:
    """Each client's own held-out loss, base against newest adapter, with the baselines; by name."""
    base, final, own = view.base_evaluation, view.final_evaluation, view.own_evaluation
    references = [reference for reference in view.references.values() if reference.by_client]
    # Of clients in a private run the ledger has names alone.
    names = [] if any(card.hides_clients for card in view.cards.values()) else sorted(view.client_names)
    if len(names) > _MOST_CLIENTS:
        names = sorted(sorted(names, key=lambda name: -_gain(base, final, name))[-_MOST_CLIENTS:])

    left_out = _left_out(len(names), len(view.client_names), "clients, those that gained least")
    with_rewards, minus = _has_rewards(view), view.learned.loss_is_minus

    def row(name: str) -> tuple[str, ...]:
        before, after = _of(base, name), _of(final, name)
        client = view.clients.get(name, DescribedClient(client=name))
        return (
            name,
            loss_text(before.loss if before else None),
            loss_text(after.loss if after else None),
            moved_text(after, before),
            *((percent_text(after.accuracy if after else None),) if view.accuracy_name else ()),
            *((reward_text(after.reward_margin if after else None),) if with_rewards else ()),
            *((minus_text(after.loss if after else None),) if minus else ()),
            *((loss_text(score.loss if (score := _of(own, name)) else None),) if own else ()),
            *(loss_text(reference.by_client.get(name)) for reference in references),
            count_text(client.train_tokens),
            count_text(client.held_out_examples),
        )

    return Table(
        title="Held-out loss by client",
        headings=(
            "client",
            "base",
            "federated",
            "change",
            *((view.accuracy_name,) if view.accuracy_name else ()),
            *(("margin",) if with_rewards else ()),
            *((minus,) if minus else ()),
            *(("own",) if own else ()),
            *(reference.kind for reference in references),
            "training tokens",
            "held-out sequences",
        ),
        rows=tuple(row(name) for name in names) if base or final or view.clients else (),
        note=f"{left_out} {_whose(view)}".strip(),
    )


def _whose(view: RunView) -> str:
    """Of which adapters the losses by client are."""
    if view.is_personal:
        return _ALL_ARE_OWN
    return _OWN if view.own_evaluation else ""


def bytes_by_round_table(view: RunView) -> Table:
    """Bytes actually sent in every round, and the bits per parameter of the accepted updates."""
    by_round = view.traffic_by_round
    shown = _thin(tuple(by_round), _MOST_ROUNDS)

    def row(number: int) -> tuple[str, ...]:
        traffic = by_round[number]
        updates = _updates(view, number)
        bits = [update.bits_per_parameter for update in updates if update.bits_per_parameter is not None]
        return (
            "set-up" if number == 0 else str(number),
            count_text(len(updates)) if number else "",
            bytes_text(traffic.uplink_bytes),
            bytes_text(traffic.downlink_bytes),
            bytes_text(fmean(update.uplink_bytes for update in updates)) if updates else "",
            f"{fmean(bits):.2f}" if bits else "",
            duration_text(view.rounds[number].wall_s) if number in view.rounds else "",
        )

    def total(traffic: Traffic) -> tuple[str, ...]:
        updates = count_text(view.client_rounds)
        up, down = bytes_text(traffic.uplink_bytes), bytes_text(traffic.downlink_bytes)
        return ("all", updates, up, down, "", "", duration_text(view.wall_s))

    return Table(
        title="Bytes by round",
        headings=("round", "updates", "uplink", "downlink", "per update", "bits per parameter", "time"),
        rows=(*(row(number) for number in shown), total(view.sent)) if by_round else (),
        note=" ".join(
            (
                _left_out(len(shown), len(by_round), "rounds, evenly spaced"),
                _AT_WORK_AT_THE_END if view.is_async else "",
            )
        ).strip(),
    )


def savings_table(view: RunView) -> Table:
    """Bytes of other exchanges for the same rounds."""
    return compare_bytes(
        sent_bytes=view.sent.total_bytes,
        client_rounds=view.client_rounds,
        full_model_bytes=view.start.full_model_bytes,
        trainable_parameters=view.start.adapter.trainable_parameters,
        this="this run",
    )


def compare_bytes(
    *,
    sent_bytes: int,
    client_rounds: int,
    full_model_bytes: int,
    trainable_parameters: int,
    this: str,
) -> Table:
    """`sent_bytes` compared with every alternative over the same client-rounds; `this` names the first row.

    Args:
        full_model_bytes: the whole model in float32.
        this: name of the row for `sent_bytes`.
    """
    alternatives = all_alternatives(full_model_bytes=full_model_bytes, trainable_parameters=trainable_parameters)
    rows = tuple(
        (
            alternative.name,
            bytes_text(alternative.message_bytes),
            bytes_text(alternative.sent_bytes(client_rounds)),
            ratio_text(savings(alternative, client_rounds=client_rounds, sent_bytes=sent_bytes)),
        )
        for alternative in (*alternatives.values(), Alternative("full model, bf16", full_model_bytes / 2))
    )
    per_message = bytes_text(sent_bytes / (2 * client_rounds)) if client_rounds else ""
    return Table(
        title="Bytes sent, and what other exchanges would send",
        headings=("exchange", "per message", "in total", "times as much"),
        rows=((this, per_message, bytes_text(sent_bytes), ""), *rows) if sent_bytes and client_rounds else (),
        note=f"Two messages in each of {plural(client_rounds, 'client-round')}. "
        f"{this.capitalize()} counts every byte, the others count only arrays.",
    )


def aggregation_table(view: RunView) -> Table:
    """The rule's result in every round, relative to the exact mean of the clients' products, or outputs."""
    there = [(each.round, each.diagnostics) for each in view.rounds.values() if each.diagnostics]
    shown = _thin(there, _MOST_ROUNDS)
    rule = view.newest_round.rule if view.newest_round else ""
    inputs = there[-1][1].inputs if there else None
    measured = f"Measured on the bottlenecks' outputs for {inputs} random inputs." if inputs else ""
    return Table(
        title=f"Aggregation by round ({rule})" if rule else "Aggregation by round",
        headings=("round", "error", "averaged separately", "agreement", "effective rank", "moves least", "moves most"),
        rows=tuple(
            (
                str(number),
                percent_text(found.error),
                percent_text(found.covariance),
                percent_text(found.agreement),
                f"{found.effective_rank:.1f}" if found.effective_rank is not None else NOTHING,
                f"{min(found.drift.values(), default=0):.3g}",
                f"{max(found.drift.values(), default=0):.3g}",
            )
            for number, found in shown
        ),
        note=" ".join(filter(None, (_left_out(len(shown), len(there), "rounds, spread over the run"), measured))),
    )


def left_out_table(view: RunView) -> Table:
    """Clients that could not take part."""
    shown = [*view.left_out.values()][:_MOST_REFUSALS]
    return Table(
        title="Clients that could not take part",
        headings=("client", "reason", "its message"),
        rows=tuple((each.name, each.reason, each.detail) for each in shown),
        note=_left_out(len(shown), len(view.left_out), "clients, the first ones"),
        text_columns=(0, 1, 2),
    )


def refusals_table(view: RunView) -> Table:
    """Updates that were not accepted."""
    shown = view.refusals[:_MOST_REFUSALS]
    return Table(
        title="Refused updates",
        headings=("round", "client", "reason", "detail"),
        rows=tuple((str(refusal.round), refusal.client, refusal.reason, refusal.detail) for refusal in shown),
        note=_left_out(len(shown), len(view.refusals), "refusals, the first ones"),
        text_columns=(0, 1, 2, 3),
    )


def _round_text(number: int) -> str:
    return "base" if number == 0 else str(number)


def _updates(view: RunView, number: int) -> list[UpdateReceived]:
    return [update for update in view.updates.values() if update.counted_in == number]


def _mean_train_loss(view: RunView, number: int) -> float | None:
    losses = [update.train_loss for update in _updates(view, number) if update.train_loss is not None]
    return fmean(losses) if losses else None


def _of(evaluation: MeanScore | None, name: str) -> Score | None:
    return evaluation.by_client.get(name) if evaluation else None


def _gain(base: MeanScore | None, final: MeanScore | None, name: str) -> float:
    before, after = _of(base, name), _of(final, name)
    return before.loss - after.loss if before and after else float("-inf")


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _thin(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _left_out(shown: int, there: int, which: str) -> str:
    return f"{shown:,} of {there:,} {which}." if shown < there else ""


_CONTROL = "control: "


def membership_table(audited: Audited | None) -> Table:
    """How well attacks tell trained sequences from held-out ones.

    Args:
        audited: what they found; None if nothing is known.
    """
    headings = ("score", "AUC", "trained ones found at 1 % false alarms")
    if audited is None or not audited.attacks:
        return Table(title="Membership", headings=headings, rows=())
    return Table(
        title=f"Membership: {audited.members:,} trained sequences against {audited.others:,} held-out ones",
        headings=headings,
        rows=tuple(
            (attack.name, f"{attack.auc:.3f} ± {attack.margin:.3f}", f"{attack.tpr:.1%}") for attack in audited.attacks
        ),
        note="0.500 is chance. The controls never saw the adapter: what they reach is how far held-out text differs "
        "from the rest. Computed from the data without noise, so no epsilon covers these figures.",
    )


def verdict(attacks: Sequence[MembershipAttack]) -> str:
    """Whether the adapter gives members away: an attack on it is surely better than chance, and than every control."""
    controls = [each.auc for each in attacks if each.name.startswith(_CONTROL)]
    telling = [each for each in attacks if not each.name.startswith(_CONTROL) and each.auc - each.margin > 0.5]
    best = max(telling, key=lambda each: each.auc, default=None)
    if best is None or best.auc <= max(controls, default=0.5):
        return "No leak found: no attack on the adapter is surely better than chance and than the base alone."
    return (
        f"This adapter gives members away: '{best.name}' finds {best.tpr:.1%} of the trained sequences at 1 % false "
        "alarms. Train fewer steps, or with --dp record."
    )
