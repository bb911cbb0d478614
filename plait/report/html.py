"""The report as one self-contained page: no script, no request, everything inline; light, dark, narrow and printed.

The page itself is ``templates/report.html``; this module computes its contents. All text is escaped, and characters
that are not printable are removed. Takes plots as SVG and draws none itself.
"""

import json
import time
from collections.abc import Mapping, Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from plait.ledger.run_view import RunView
from plait.report.answers import advice, answers, final_figure, is_deployed, repeat_command, run_facts
from plait.report.costs import SentBytes
from plait.report.table import Table, card_table
from plait.report.tables import figures_of, tables_by_name, tables_of_parts
from plait.report.wording import (
    NOTHING,
    bytes_text,
    clean,
    count_text,
    duration_text,
    found_rates,
    given_rate,
    loss_text,
    minus_text,
    moved_text,
    percent_text,
    plural,
    ratio_text,
    reward_text,
    short_count_text,
)
from plait.system.text import Json, printable

_ALTERNATIVE_TEXTS: Mapping[str, str] = {
    "fleet": "Gantt chart of one round: when every device received its task, trained and sent its update.",
    "loss_by_round": "Line plot: held-out loss over rounds, the federated mean, every client, base and references.",
    "loss_by_bytes": "Line plot: held-out loss over bytes sent, compared with other exchanges.",
    "clients": "Bar plot: training tokens of every client, and its examples by label or owner.",
}


def render_html(
    view: RunView, plots: Mapping[str, Mapping[str, str]], palette: str, *, shown: Sequence[Table] = ()
) -> str:
    """The whole page.

    Args:
        shown: tables for its first screen.
    """
    started = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(view.start.time))
    done = f"{len(view.rounds)} of {plural(view.planned_rounds, 'round')} done"
    return (
        page_environment()
        .get_template("report.html")
        .render(
            title=view.start.name or view.start.base.name,
            palette=palette,
            answers=answers(view),
            notice="" if view.finished else f"This run has not finished: {done}. Everything below is its state so far.",
            facts=[f"{started} · {duration_text(view.wall_s)} · seed {view.start.seed}", *run_facts(view)],
            figures=key_figures(view),
            tables=tables_by_name(view),
            shown_first=shown,
            cards=[card_table(card) for card in view.cards.values()],
            evaluated=not any(card.headline for card in view.cards.values()),
            hides_clients=any(card.hides_clients for card in view.cards.values()),
            tables_of_parts=[table for table in tables_of_parts(view) if table.rows],
            plots=plots,
            alternative_texts=_ALTERNATIVE_TEXTS,
            has_fleet="device_worked" in view.other_events,
            advice=[*advice(view)],
            command=repeat_command(view.start.config, view.start.superlink_data),
            is_on_superlink=view.start.superlink_data is not None,
            is_deployed=is_deployed(view.start.config),
            joining="plait client --kit KIT --server HOST:PORT --data FILE",
            settings=view.start.config,
            origin=_origin(view),
            versions=view.start.versions,
        )
    )


def page_environment(*packages: str) -> Environment:
    """How pages are made: text is escaped, and what is not printable is removed."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "plait.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
    )
    environment.filters.update(clean=clean, code=_code, json_text=_value_text)
    return environment


def key_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    """Name, value and remark of each key figure."""
    peak_bytes = view.end.peak_rss_bytes if view.end else None
    parameters, model_bytes = view.start.adapter.trainable_parameters, view.start.full_model_bytes
    share = percent_text(4 * parameters / model_bytes if model_bytes else None)
    return (
        *_score_figures(view),
        *_rate_figures(view),
        *_byte_figures(view),
        ("trained parameters", short_count_text(parameters), f"{share} of the model"),
        ("training speed", f"{count_text(view.train_tokens_per_s)} tokens/s", "of one client"),
        ("time", duration_text(view.wall_s), f"for {plural(len(view.rounds), 'round')}"),
        *_fleet_figures(view),
        ("peak memory", bytes_text(peak_bytes) if peak_bytes else NOTHING, "of the whole process"),
    )


def _fleet_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    if view.virtual_s is None:
        return ()
    energy_j = figures_of(view).get("energy_j")
    energy = f", {energy_j / 3600:.3g} Wh" if isinstance(energy_j, float) else ""
    return (("virtual time", duration_text(view.virtual_s), f"of the simulated devices{energy}"),)


def _score_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    before, after = view.base_evaluation, view.final_evaluation
    change = f"{moved_text(after, before)} against the base"
    figures = [("held-out loss", loss_text(after.loss if after else None), change)]
    if minus := view.learned.loss_is_minus:
        mean = minus_text(after.loss if after else None)
        figures.append((f"mean {minus}", mean, f"base: {minus_text(before.loss if before else None)}"))
    if view.accuracy_name:
        accuracy = percent_text(after.accuracy if after else None)
        interval = after.accuracy_interval if after else None
        within = f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f} %, " if interval else ""
        figures.append(
            (view.accuracy_name, accuracy, f"{within}base: {percent_text(before.accuracy if before else None)}")
        )
    if after and after.reward_margin is not None:
        figures.append(("reward margin", reward_text(after.reward_margin), "by which chosen replies lead on average"))
    if judged := view.judged:
        figures.append(("final figure", loss_text(judged.loss), final_figure(view)))
    if own := view.own_evaluation:
        moved = f"{moved_text(own, before)}, " if before else ""
        figures.append(("personalized adapters", loss_text(own.loss), f"{moved}each on its own client's data"))
    return tuple(figures)


def _rate_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    rate, spread = "", ""
    if given_rate(view.start.config) == 0:
        rate, spread = found_rates(view.updates.values())
    return (("learning rate", rate, f"found by each client{f', {spread}' if spread else ''}"),) if rate else ()


def _byte_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    sent, times = view.sent, SentBytes.of(view).savings
    each = bytes_text(sent.total_bytes / view.client_rounds) if view.client_rounds else NOTHING
    directions = f"{bytes_text(sent.uplink_bytes)} up, {bytes_text(sent.downlink_bytes)} down"
    return (
        ("sent in total", bytes_text(sent.total_bytes), directions),
        ("raw adapter", ratio_text(times["bf16_adapter"]), "as many bytes, in bf16"),
        ("full-model FedAvg", ratio_text(times["full_model"]), "as many bytes, in fp32"),
        ("per client and round", each, "both directions"),
    )


def _printable(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    return Markup("\n").join(map(printable, text.split("\n")))


def _value_text(value: Json) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, list):
        return ", ".join(_value_text(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _size_text(key: str, value: Json) -> Json:
    return bytes_text(value) if key.endswith("_bytes") and isinstance(value, (int, float)) else value


def _origin(view: RunView) -> Mapping[str, Json]:
    base, adapter, machine = view.start.base, view.start.adapter, view.start.machine
    return {
        "run": view.start.run,
        "base": base.name,
        "base fingerprint": base.fingerprint,
        "adapter": f"{adapter.method}, rank {adapter.rank}, alpha {adapter.alpha}",
        "target modules": adapter.target_modules,
        "newest adapter": view.newest_round.adapter if view.newest_round else "",
        "interruptions": view.interruptions,
        "last ledger hash": view.last.hash,
        **{f"machine: {key.removesuffix('_bytes')}": _size_text(key, value) for key, value in machine.items()},
    }
