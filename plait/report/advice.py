"""Advice on a run's settings from its own figures: one sentence for each setting that another choice would improve.

Every sentence names the figure that it is based on. Without a clear figure nothing is said.
Knows of rules only what the ledger records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, median

from plait.report.wording import clean, loss_text, percent_text
from plait.rounds.cut import cut_sentence
from plait.rounds.events import Diagnostics, Score
from plait.rounds.rates import given_rate, rates_sentence
from plait.rounds.run_view import RunView

# Below it, the loss from averaging B and A separately is small compared with the effect of one more step.
_NOTEWORTHY = 0.05
# This multiple of the median is no longer chance.
_OUTLIER = 3.0

_AHEAD_OF_ONE = (
    "a shared adapter cannot follow each client as far as its own does. More rounds may catch up; with --own-share 0.5 "
    "each client also ends with a personalized adapter."
)
_AHEAD_OF_OWN = "clients have too little in common for so few rounds. More rounds, or a larger --own-share, may help."


def advice(view: RunView) -> tuple[str, ...]:
    """Sentences on the run's rule, rank, clients and update; none if nothing stands out."""
    rounds = [each.diagnostics for each in view.rounds.values() if each.diagnostics]
    return (
        *_on_data(view),
        *_on_rates(view),
        *_on_watch(view),
        *_on_rule(view, rounds),
        *_on_agreement(view, rounds),
        *_on_outliers(view, rounds),
        *_on_step(view),
    )


def _on_data(view: RunView) -> Iterator[str]:
    """What the sequence length cuts off."""
    if sentence := cut_sentence(view.clients.values(), seq_len=view.start.config.get("seq-len")):
        yield sentence


def _on_rates(view: RunView) -> Iterator[str]:
    """The learning rates that clients found, or that the one given is too high."""
    given = given_rate(view.start.config)
    if given is not None and (sentence := rates_sentence(view.updates.values(), given=given, peer=view.peer)):
        yield sentence


def _on_watch(view: RunView) -> Iterator[str]:
    """What the run did about its own evaluations."""
    for event in view.taken_back.values():
        yield event.sentence
    if view.taken_back and view.ended_early is None:
        yield "A lower --learning-rate, or lr of --server-optimizer, would avoid that."
    if view.ended_early:
        yield view.ended_early.sentence
    kept = view.end.kept_round if view.end else None
    if kept is not None and kept < len(view.rounds) and not any(event.ends for event in view.taken_back.values()):
        yield f"The published adapter is that of round {kept}, the best evaluated one."


def _on_rule(view: RunView, rounds: list[Diagnostics]) -> Iterator[str]:
    rule = view.start.rule
    if not rounds or rule is None:
        return
    covariance = max(each.covariance for each in rounds)
    if rounds[-1].inputs:
        if covariance >= _NOTEWORTHY:
            yield (
                f"Averaging both sides of the bottlenecks loses up to {percent_text(covariance)} of the mean of the "
                f"{view.peer}s' functions; fewer --local-steps lose less, and --method lora has exact rules."
            )
        return
    if rule.separate and covariance >= _NOTEWORTHY:
        instead = "; ".join(f"--rule {clean(name)} {clean(does)}" for name, does in rule.alternatives.items())
        yield f"Averaging B and A separately loses up to {percent_text(covariance)} of the mean product; {instead}."
    elif rule.separate and len(rounds) >= 2:
        yield (
            f"Averaging B and A separately loses at most {percent_text(covariance)} of the mean product, so an exact "
            f"rule would gain little over {clean(rule.name)}."
        )
    ranks = [each.effective_rank for each in rounds if each.effective_rank]
    if ranks and view.start.adapter.rank and not rule.separate and max(each.error for each in rounds) >= _NOTEWORTHY:
        lost = max(each.error for each in rounds)
        yield (
            f"The mean of the {view.peer}s' products has an effective rank of {ranks[-1]:.1f}, and rank "
            f"{view.start.adapter.rank} loses up to {percent_text(lost)} of it; a larger --rank would keep more."
        )


def _on_agreement(view: RunView, rounds: list[Diagnostics]) -> Iterator[str]:
    found = [each.agreement for each in rounds if each.agreement is not None and len(each.drift) > 2]
    if not found:
        return
    agreement, right_angles = fmean(found), 1 / math.sqrt(fmean(len(each.drift) for each in rounds))
    if agreement < 1.25 * right_angles and not view.is_personal and not view.own_evaluation:
        yield (
            f"The {view.peer}s move in nearly orthogonal directions: their mean moves {percent_text(agreement)} of "
            f"what each moves ({percent_text(right_angles)} if they were orthogonal). They learn different things; "
            "with --own-share 0.5 each client also ends with a personalized adapter."
        )


def _on_outliers(view: RunView, rounds: list[Diagnostics]) -> Iterator[str]:
    """A client or region that moves far beyond the others in most of its rounds."""
    beyond: dict[str, list[float]] = {}
    for each in rounds:
        middle = median(each.drift.values()) if len(each.drift) > 2 else 0.0
        for client, drift in each.drift.items():
            beyond.setdefault(client, []).append(drift / middle if middle else 0.0)
    for client, ratios in sorted(beyond.items()):
        if median(ratios) >= _OUTLIER:
            yield (
                f"{clean(client)} moves {median(ratios):.1f} times as far as the median {view.peer}. To limit that, "
                f"use --norm-bound clip:10."
            )


def _on_step(view: RunView) -> Iterator[str]:
    final, own = view.final_evaluation, view.own_evaluation
    if final is None or view.is_personal:
        return
    if own and _is_above(own, final):
        yield (
            f"The personalized adapters reach {loss_text(own.loss)} and the shared one "
            f"{loss_text(final.loss)}: the clients' data are alike, so --own-share 0 would spend every step on the "
            f"shared one."
        )
    best: Score = min((own, final) if own else (final,), key=lambda score: score.loss)
    reached = best.loss
    for reference in view.references.values():
        if reference.kind != "local" or not _is_above(best, reference.final):
            continue
        elsewhere = reference.everywhere
        for_all = f" (on all clients' text theirs reach {loss_text(elsewhere)})" if elsewhere is not None else ""
        yield (
            f"The local-only baseline reaches {loss_text(reference.held_out_loss)} on each client's own text, the "
            f"federation {loss_text(reached)}{for_all}: {_AHEAD_OF_OWN if own else _AHEAD_OF_ONE}"
        )


def _is_above(score: Score, other: Score) -> bool:
    """Whether a loss is higher by more than chance, on the same sequences; by anything if no margins are known."""
    chance = math.hypot(score.change_margin or 0.0, other.change_margin or 0.0)
    return score.loss - other.loss > chance
