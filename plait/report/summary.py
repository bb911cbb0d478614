"""The readable files of a run directory, from its ledger: ``summary.json``, ``report.html`` and the plots."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import fmean, median

from plait.ledger.events import Audited, Evaluated, MeanScore, Score
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.clients import fairness_of
from plait.report.costs import SentBytes
from plait.report.tables import figures_of, shown_first
from plait.system.files import write_atomically
from plait.system.text import Json


def summarise(view: RunView) -> dict[str, Json]:
    """The summary of a run; values that do not exist yet are None.

    All bytes are those actually sent, including descriptions and evaluations, and so are the bytes per client-round:
    totals over the number of accepted updates.
    Both savings compare with one message each way per accepted update.
    ``fairness`` counts every client once (see `Fairness`). Keys that begin with ``own`` are of each client's
    personalized adapter on its own held-out data, if there is one. Keys that end with ``interval`` are 95 % intervals,
    [low, high]; ``gain`` is the fall of the loss since before round 1, compared sequence by sequence.
    Keys that begin with ``judged`` are of what no decision looked at, None where no client has such a part.
    ``better_than_base`` is false for an adapter that is worse than its base, None where chance may explain the change.
    Features add keys of their own. ``dp_audit_bound`` and ``membership`` are what `plait audit --record` found, None
    before; ``audited_group`` is the column of the groups that they are about, None of sequences.
    ``held_out_loss_by_round`` is indexed by round, 0 first, with None for rounds without an evaluation; likewise
    ``virtual_s_by_round``, the virtual clock when those losses were in. ``virtual_s`` and that list are None without
    a virtual clock.
    """
    summary: dict[str, Json] = {
        **_losses(view),
        "rounds": len(view.rounds),
        "learning_rate": _learning_rate(view),
        "kept_round": view.end.kept_round if view.end else None,
        "steps_taken_back": [*view.taken_back],
        "clients": view.client_count,
        **_metrics(view),
        **figures_of(view),
        "dp_audit_bound": view.audited.epsilon_bound if view.audited else None,
        "audited_group": view.audited.group or None if view.audited else None,
        "membership": _membership(view.audited) if view.audited else None,
        **SentBytes.of(view).figures,
        "train_tokens_per_s": view.train_tokens_per_s,
        "wall_s": view.wall_s,
        "virtual_s": view.virtual_s,
        "virtual_s_by_round": None if view.virtual_s is None else _by_round(view, lambda score: score.virtual_s),
        "peak_rss_bytes": view.end.peak_rss_bytes if view.end else None,
        "seed": view.start.seed,
        "versions": dict(view.start.versions),
    }
    if view.learned.loss_is_minus:
        return {**summary, **_mean_rewards(view)}
    if view.is_classification:
        return {**summary, **_accuracies(view, "held_out_accuracy")}
    return {**summary, **_rewards(view)} if view.accuracy_name else summary


def _losses(view: RunView) -> dict[str, Json]:
    own, found = view.own_evaluation, fairness_of(view)
    return {
        **_scores(
            view, "held_out_loss", lambda score: score.loss, lambda score: _around(score.loss, score.loss_margin)
        ),
        "better_than_base": view.is_better,
        "gain": _gain(view.final_evaluation),
        "gain_interval": _gain_interval(view.final_evaluation),
        "own_gain": _gain(own),
        "own_gain_interval": _gain_interval(own),
        "judged_loss": view.judged and view.judged.loss,
        "judged_gain": _gain(view.judged),
        "judged_gain_interval": _gain_interval(view.judged),
        "judged_own_loss": view.judged and view.judged.own and view.judged.own.loss,
        "judged_sequences": view.judged and view.judged.sequences,
        "held_out_sequences": sum(client.held_out_examples for client in view.clients.values()),
        "reference_loss_everywhere": {kind: reference.everywhere for kind, reference in view.references.items()},
        "fairness": vars(found) if found else None,
    }


def _scores(
    view: RunView,
    name: str,
    of: Callable[[Score], float | None],
    interval: Callable[[Score], Json],
    *,
    with_intervals: Collection[str] = ("base", "final", "own"),
) -> dict[str, Json]:
    """A figure of base, newest and personalized adapters, by round, by client, and of the baselines."""
    found: dict[str, Json] = {}
    for which, mean in (("base", view.base_evaluation), ("final", view.final_evaluation), ("own", view.own_evaluation)):
        found[f"{which}_{name}"] = of(mean) if mean else None
        if which in with_intervals:
            found[f"{which}_{name}_interval"] = interval(mean) if mean else None
    return {
        **found,
        f"{name}_by_round": _by_round(view, of),
        f"{name}_by_client": _by_client(view.final_evaluation, of),
        f"own_{name}_by_client": _by_client(view.own_evaluation, of),
        f"reference_{name}": {kind: of(reference.final) for kind, reference in view.references.items()},
    }


def _metrics(view: RunView) -> dict[str, Json]:
    """The run's metrics; nothing of a run without."""
    found: dict[str, Json] = {}
    final = view.final_evaluation
    for name in view.metric_names:

        def of(score: Score, name: str = name) -> float | None:
            return (score.metrics or {}).get(name)

        means = {"base": view.base_evaluation, "final": final, "own": view.own_evaluation}
        found[name] = {
            **{which: of(mean) if mean else None for which, mean in means.items()},
            "by_round": _by_round(view, of),
            "by_client": _by_client(final, of),
            "reference": {kind: of(reference.final) for kind, reference in view.references.items()},
        }
    if final and final.confusion:
        found["confusion"] = [list(row) for row in final.confusion]
    return {"metrics": found} if found else {}


def _accuracies(view: RunView, name: str) -> dict[str, Json]:
    return _scores(
        view, name, lambda score: score.accuracy, lambda score: score.accuracy_interval and [*score.accuracy_interval]
    )


def _rewards(view: RunView) -> dict[str, Json]:
    final, own = view.final_evaluation, view.own_evaluation
    return {
        "objective": view.start.config.get("objective"),
        **_accuracies(view, "reward_accuracy"),
        "final_reward_margin": final.reward_margin if final else None,
        "reward_margin_by_round": _by_round(view, lambda score: score.reward_margin),
        "reward_margin_by_client": _by_client(final, lambda score: score.reward_margin),
        "own_reward_margin": own.reward_margin if own else None,
    }


def _mean_rewards(view: RunView) -> dict[str, Json]:
    """Mean rewards: of one completion of each held-out prompt, and of those that clients sampled in training."""

    def reward(score: Score) -> float:
        return 0.0 - score.loss

    known = [update for update in view.updates.values() if update.reward is not None]
    return {
        "objective": view.start.config.get("objective"),
        **_scores(
            view,
            "reward",
            reward,
            lambda score: _around(reward(score), score.loss_margin),
            with_intervals=("final",),
        ),
        "train_reward_by_round": [
            _mean([update.reward or 0.0 for update in known if update.counted_in == number]) for number in view.rounds
        ],
        "train_reward_by_client": {
            name: _mean([update.reward or 0.0 for update in known if update.client == name])
            for name in sorted({update.client for update in known})
        },
        "refused_completions": sum(update.refused_completions or 0 for update in known),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _gain(evaluation: MeanScore | None) -> float | None:
    return None if evaluation is None or evaluation.change is None else -evaluation.change


def _gain_interval(evaluation: MeanScore | None) -> Json:
    return _around(_gain(evaluation), evaluation.change_margin) if evaluation else None


def _around(middle: float | None, margin: float | None) -> Json:
    return None if middle is None or margin is None else [middle - margin, middle + margin]


def _by_round(view: RunView, of: Callable[[Evaluated], float | None]) -> list[Json]:
    found = {number: of(evaluation) for number, evaluation in view.evaluations.items()}
    return [found.get(number) for number in range(max(found, default=-1) + 1)]


def _membership(audited: Audited) -> dict[str, Json]:
    return {
        attack.name: {"auc": attack.auc, "auc_interval": _around(attack.auc, attack.margin), "tpr_at_fpr_1": attack.tpr}
        for attack in audited.attacks
    }


def _by_client(evaluation: MeanScore | None, of: Callable[[Score], float | None]) -> dict[str, Json]:
    return {name: of(score) for name, score in evaluation.by_client.items()} if evaluation else {}


def _learning_rate(view: RunView) -> float | None:
    """The median of clients' peak learning rates, or of a round's last where they follow slopes; None if unknown."""
    rates = [update.learning_rate for update in view.updates.values() if update.learning_rate is not None]
    return median(rates) if rates else None


def write_report(run_directory: Path) -> RunView:
    """Read ``ledger.jsonl`` and write the report beside it; every file is written atomically.

    Returns:
        The view that the report shows.

    Raises:
        PeerError: the ledger is missing, broken or invalid.
        MachineError: the directory cannot be written.
    """
    # Loading matplotlib takes a second, which reading a summary need not wait for.
    from plait.report import html, plots, theme

    view = RunView.of(read_events(run_directory / "ledger.jsonl"))
    summary = json.dumps(summarise(view), indent=2, allow_nan=False) + "\n"
    write_atomically(run_directory / "summary.json", summary.encode())
    page = html.render_html(view, plots.draw_svgs(view), theme.palette_css(), shown=shown_first(run_directory))
    for name, png in plots.draw_plots(view).items():
        write_atomically(run_directory / f"{name}.png", png)
    write_atomically(run_directory / "report.html", page.encode())
    return view
