"""The tables of a run: losses by round, aggregation, membership; and all tables of a report in reading order."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from plait.ledger import fleet
from plait.ledger.events import Audited, Evaluated, MembershipAttack
from plait.ledger.run_view import RunView
from plait.report.answers import decided
from plait.report.clients import fairness_table, left_out_table, loss_by_client_table, refusals_table, staleness_table
from plait.report.costs import SentBytes, bytes_by_round_table
from plait.report.samples import samples_table
from plait.report.table import Table, card_table, shown_of, thinned
from plait.report.wording import (
    NOTHING,
    accuracy_text,
    clean,
    count_text,
    loss_text,
    metric_texts,
    minus_text,
    moved_text,
    percent_text,
    perplexity_text,
    plural,
    reward_text,
    within_text,
)
from plait.settings.table import parts_of
from plait.system.text import Json

_MOST_ROUNDS = 60


def tables_by_name(view: RunView) -> dict[str, Table]:
    """The tables of every run, in reading order, some of them empty."""
    return {
        "loss_by_round": loss_by_round_table(view),
        "loss_by_client": loss_by_client_table(view),
        "confusion": confusion_table(view),
        "fairness": fairness_table(view),
        "bytes_by_round": bytes_by_round_table(view),
        "savings": SentBytes.of(view).table("this run"),
        "aggregation": aggregation_table(view),
        "left_out": left_out_table(view),
        "refusals": refusals_table(view),
        "membership": membership_table(view.audited),
    }


def report_tables(view: RunView) -> tuple[Table, ...]:
    """Every table that has rows, in reading order."""
    tables = (*map(card_table, view.cards.values()), *tables_of_parts(view), *tables_by_name(view).values())
    return tuple(table for table in tables if table.rows)


def tables_of_parts(view: RunView) -> tuple[Table, ...]:
    """The sections of what the run asked for besides the core, and of what its ledger has events of."""
    found: list[Table] = []
    if "rounds-mode" in view.start.config:
        found.append(staleness_table(view))
    if view.other_events.keys() & {"privacy_started", "client_withdrawn", "withdrawn"}:
        privacy = _privacy()
        found += (privacy.epsilon_table(view), privacy.withdrawal_table(view))
    return tuple(found)


def shown_first(run: Path) -> tuple[Table, ...]:
    """What a report's first screen and a run's end show of its directory."""
    table = samples_table(run)
    return (table,) if table.rows else ()


def figures_of(view: RunView) -> dict[str, Json]:
    """What parts besides the core add to a run's summary."""
    found: dict[str, Json] = {}
    if "fleet" in view.start.config:
        found |= fleet.figures_of(view)
    if "privacy" in view.cards:
        found |= _privacy().figures_of(view)
    return found


def _privacy():
    from plait.report import privacy  # most runs have none

    return privacy


def loss_by_round_table(view: RunView) -> Table:
    """Mean held-out loss after every evaluated round, with the baselines if they were evaluated too."""
    base, minus = view.base_evaluation, view.learned.loss_is_minus
    references = [reference for reference in view.references.values() if reference.held_out_loss_by_round]

    def columns(evaluation: Evaluated) -> dict[str, str]:
        number, training = evaluation.round, _mean_train_loss(view, evaluation.round)
        found = {
            "round": str(number) if number else "base",
            "loss": within_text(loss_text(evaluation.loss), evaluation.loss_margin),
            "change": moved_text(evaluation, base) if base and number else "",
        }
        if view.accuracy_name:
            found[view.accuracy_name] = accuracy_text(evaluation.accuracy, evaluation.accuracy_interval)
        elif minus:
            found[minus] = minus_text(evaluation.loss)
        else:
            found["perplexity"] = perplexity_text(evaluation.loss)
        if view.has_reward_margins:
            found["margin"] = reward_text(evaluation.reward_margin)
        found |= metric_texts(view.metric_names, evaluation.metrics)
        found[f"training {minus or 'loss'}"] = (minus_text if minus else loss_text)(training) if number else ""
        return found | {each.kind: loss_text(_at(each.held_out_loss_by_round, number)) for each in references}

    shown = thinned([*view.evaluations.values()], _MOST_ROUNDS)
    left_out = shown_of(len(shown), len(view.evaluations), "rounds, evenly spaced")
    notes = (left_out, _own_text(view), _measured_text(view), view.learned.note, _refused_text(view))
    return Table.of_columns("Held-out loss by round", map(columns, shown), note=" ".join(filter(None, notes)))


def confusion_table(view: RunView) -> Table:
    """How often held-out examples of each label are predicted as each, with the published adapter."""
    final = view.final_evaluation
    rows = (final.confusion or ()) if final else ()
    labels = parts_of(str(view.start.config.get("labels", "")))
    names = [clean(label, limit=32) for label in labels] if len(labels) == len(rows) else [*map(str, range(len(rows)))]
    return Table(
        "Predicted labels",
        ("label", *names),
        tuple((name, *map(count_text, row)) for name, row in zip(names, rows, strict=True)),
        "A row has the held-out examples of a label, over all clients; a column those predicted as it.",
    )


def _refused_text(view: RunView) -> str:
    """How many completions had no reward; empty for none."""
    refused = sum(update.refused_completions or 0 for update in view.updates.values())
    return f"{plural(refused, 'sampled completion')} had no numeric reward and did not count." if refused else ""


def _measured_text(view: RunView) -> str:
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
        "are 95 % intervals. The change is compared by sequence, so it is known more precisely than the losses. "
        f"{decided(view, 'These losses')}"
    ).rstrip()


def _own_text(view: RunView) -> str:
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


def aggregation_table(view: RunView) -> Table:
    """The rule's result in every round, relative to the exact mean of the clients' products, or outputs."""
    there = [(each.round, each.diagnostics) for each in view.rounds.values() if each.diagnostics]
    shown = thinned(there, _MOST_ROUNDS)
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
        note=" ".join(filter(None, (shown_of(len(shown), len(there), "rounds, spread over the run"), measured))),
    )


def _mean_train_loss(view: RunView, number: int) -> float | None:
    losses = [update.train_loss for update in view.updates_in(number) if update.train_loss is not None]
    return fmean(losses) if losses else None


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


_CONTROL = "control: "


def membership_table(audited: Audited | None) -> Table:
    """How well attacks distinguish trained sequences, or groups, from held-out ones.

    Args:
        audited: what they found; None if nothing is known.
    """
    headings = ("score", "AUC", "trained ones found at 1 % false alarms")
    if audited is None or not audited.attacks:
        return Table(title="Membership", headings=headings, rows=())
    return Table(
        title=f"Membership: {audited.members:,} trained {audited.unit} against {audited.others:,} held-out ones",
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
        f"This adapter gives members away: '{best.name}' finds {best.tpr:.1%} of what it was trained on at 1 % "
        "false alarms. Train fewer steps, or with --dp record."
    )
