"""The report as one self-contained page: no script, no request, everything inline; light, dark, narrow and printed.

Takes plots as PNG bytes and draws none itself.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence

from plait.adapters import Json
from plait.report.advice import advice
from plait.report.alternatives import full_model_fp32, savings
from plait.report.fairness import fairness_table
from plait.report.markup import Markup, element, fragment
from plait.report.repeat import is_deployed, repeat_command
from plait.report.stylesheet import STYLESHEET
from plait.report.table import Table
from plait.report.tables import (
    aggregation_table,
    bytes_by_round_table,
    left_out_table,
    loss_by_client_table,
    loss_by_round_table,
    moved_text,
    own_text,
    refusals_table,
    savings_table,
)
from plait.report.wording import (
    NOTHING,
    accuracy_text,
    bytes_text,
    clean,
    count_text,
    duration_text,
    loss_text,
    percent_text,
    plural,
    ratio_text,
    rough_text,
    short_count_text,
)
from plait.rounds.run_view import RunView

_ALTERNATIVE_TEXTS: Mapping[str, str] = {
    "loss_by_round": "Line plot: held-out loss over rounds, the federated mean, every client, base and references.",
    "loss_by_bytes": "Line plot: held-out loss over bytes sent, beside what other exchanges would have sent.",
    "clients": "Bar plot: training tokens of every client and what its examples are.",
    "bytes_by_round": "Stacked bars: uplink and downlink bytes of every round.",
    "aggregation": "Two line plots over rounds: error of the aggregate, and how far every client moved.",
    "savings": "Bars on a logarithmic scale: bytes of this run beside other exchanges.",
}


def render_html(view: RunView, plots: Mapping[str, Mapping[str, bytes]]) -> str:
    """The whole page.

    Args:
        view: the run.
        plots: for every media query, in the order to try them, what `draw_plots` drew for it; "" for all other pages.
    """

    def plot(name: str) -> Markup:
        return _figure({media: drawn[name] for media, drawn in plots.items()}, _ALTERNATIVE_TEXTS[name])

    title = f"{view.start.name or view.start.base.name} · plait"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(STYLESHEET)),
    )
    body = element(
        "body",
        element(
            "main",
            _header(view),
            _key_figures(view),
            _section("What was learned", plot("loss_by_round"), _table(loss_by_round_table(view))),
            _section("What it cost", plot("loss_by_bytes"), plot("savings"), _table(savings_table(view))),
            _section("Client by client", _table(loss_by_client_table(view)), *_evenness(view), plot("clients")),
            _section("What crossed the wire", plot("bytes_by_round"), _table(bytes_by_round_table(view))),
            _section("How well it was averaged", _sentences(advice(view)), *_aggregation(view, plot)),
            _section("Who could not take part", _table(left_out_table(view))),
            _section("What was refused", _table(refusals_table(view))),
            _section("How to repeat it", _command(view), _pairs(view.start.config)),
            _section("Where it comes from", _pairs(_origin(view)), _pairs(view.start.versions)),
        ),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en').source}\n"


def _evenness(view: RunView) -> tuple[Markup, ...]:
    table = fairness_table(view)
    return (_table(table),) if table.rows else ()


def _aggregation(view: RunView, plot: Callable[[str], Markup]) -> tuple[Markup, ...]:
    table = aggregation_table(view)
    return (plot("aggregation"), _table(table)) if table.rows else ()


def headline(view: RunView) -> str:
    """The run in two or three plain sentences."""
    who = plural(len(view.client_names), "client")
    base, final = view.base_evaluation, view.final_evaluation
    if final is None:
        return f"{who} began to teach {clean(view.start.base.name)}; no round has been evaluated yet."
    learned = f"held-out loss is {loss_text(final.loss)}"
    if base:
        verb = "fell" if final.loss < base.loss else "rose" if final.loss > base.loss else "went"
        learned = f"held-out loss {verb} from {loss_text(base.loss)} to {loss_text(final.loss)}"
        if final.change_margin is not None:
            learned += f" ({moved_text(final, base)})"
        if base.accuracy is not None and final.accuracy is not None:
            after = accuracy_text(final.accuracy, final.accuracy_interval)
            learned += f", accuracy went from {percent_text(base.accuracy)} to {after}"
    taught = f"{who} taught {clean(view.start.base.name)} in {plural(final.round, 'round')}: {learned}."
    taught = " ".join(filter(None, (taught, own_text(view))))
    full_model = full_model_fp32(view.start.full_model_bytes)
    ratio = savings(full_model, client_rounds=view.client_rounds, sent_bytes=view.sent.total_bytes)
    if ratio is None:
        return taught
    cost = f"{bytes_text(view.sent.total_bytes)} crossed the wire in all"
    spent = bytes_text(full_model.sent_bytes(view.client_rounds))
    return f"{taught} {cost}; full-model FedAvg would have sent {spent}, {rough_text(ratio)} times as much."


def _header(view: RunView) -> Markup:
    started = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(view.start.time))
    notice: Markup | str = ""
    if not view.finished:
        done = f"This run has not finished: {len(view.rounds)} of {plural(view.planned_rounds, 'round')} done."
        notice = element("p", f"{done} Everything below is what it had reached.", class_="notice")
    return element(
        "header",
        element("p", "plait · report of a run", class_="eyebrow"),
        element("h1", view.start.name or view.start.base.name),
        element("p", headline(view), class_="headline"),
        notice,
        element("p", f"{started} · {duration_text(view.wall_s)} · seed {view.start.seed}", class_="quiet"),
    )


def _key_figures(view: RunView) -> Markup:
    peak_bytes = view.end.peak_rss_bytes if view.end else None
    figures = (
        *_score_figures(view),
        *_byte_figures(view),
        ("trained parameters", short_count_text(view.start.adapter.trainable_parameters), _share_of_model(view)),
        ("training speed", f"{count_text(view.train_tokens_per_s)} tokens/s", "of one client"),
        ("time", duration_text(view.wall_s), f"for {plural(len(view.rounds), 'round')}"),
        ("peak memory", bytes_text(peak_bytes) if peak_bytes else NOTHING, "of the whole process"),
    )
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value, element("small", note)))
            for name, value, note in figures
        ),
        class_="figures",
    )


def _score_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    base, final = view.base_evaluation, view.final_evaluation
    before, after = base or None, final or None
    change = f"{moved_text(after, before)} against the base"
    figures = [("held-out loss", loss_text(after.loss if after else None), change)]
    if view.is_classification:
        accuracy = percent_text(after.accuracy if after else None)
        interval = after.accuracy_interval if after else None
        within = f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f} %, " if interval else ""
        figures.append(("accuracy", accuracy, f"{within}base: {percent_text(before.accuracy if before else None)}"))
    if own := view.own_evaluation:
        moved = f"{moved_text(own, before)}, " if before else ""
        figures.append(("own adapters", loss_text(own.loss), f"{moved}each on its client's own data"))
    return tuple(figures)


def _byte_figures(view: RunView) -> tuple[tuple[str, str, str], ...]:
    sent, full_model = view.sent, full_model_fp32(view.start.full_model_bytes)
    ratio = savings(full_model, client_rounds=view.client_rounds, sent_bytes=sent.total_bytes)
    each = bytes_text(sent.total_bytes / view.client_rounds) if view.client_rounds else NOTHING
    directions = f"{bytes_text(sent.uplink_bytes)} up, {bytes_text(sent.downlink_bytes)} down"
    return (
        ("sent in all", bytes_text(sent.total_bytes), directions),
        ("full-model FedAvg", ratio_text(ratio), "as many bytes, in fp32"),
        ("per client and round", each, "both directions"),
    )


def _share_of_model(view: RunView) -> str:
    adapter_bytes, model_bytes = 4 * view.start.adapter.trainable_parameters, view.start.full_model_bytes
    share = adapter_bytes / model_bytes if model_bytes else None
    return f"{percent_text(share)} of the model"


def _section(title: str, *children: Markup) -> Markup:
    if not any(child.source for child in children):
        return Markup("")
    return element("section", element("h2", title), *children)


def _sentences(sentences: Sequence[str]) -> Markup:
    return element("ul", *(element("li", sentence) for sentence in sentences)) if sentences else Markup("")


def _figure(variants: Mapping[str, bytes], alternative_text: str) -> Markup:
    return element(
        "figure",
        element(
            "picture",
            *(element("source", srcset=_data_uri(png), media=media) for media, png in variants.items() if media),
            element("img", src=_data_uri(variants[""]), alt=alternative_text),
        ),
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(table: Table) -> Markup:
    if not table.rows:
        return Markup("")

    def cells(tag: str, row: tuple[str, ...]) -> Markup:
        return fragment(
            *(
                element(tag, clean(cell), **({"class_": "words"} if index in table.text_columns else {}))
                for index, cell in enumerate(row)
            )
        )

    return element(
        "div",
        element(
            "table",
            element("caption", table.title),
            element("thead", element("tr", cells("th", table.headings))),
            element("tbody", *(element("tr", cells("td", row)) for row in table.rows)),
        ),
        element("p", table.note, class_="quiet") if table.note else "",
        class_="table",
    )


def _command(view: RunView) -> Markup:
    # The spaces between the options are part of what is copied.
    words = (fragment(element("span", word), " ") for word in repeat_command(view.start.config))
    command = element("p", element("code", *words), class_="command")
    if not is_deployed(view.start.config):
        return command
    clients = "Give it your own kit and --listen. Each client takes part with its own data:"
    client = element("p", element("code", "plait client --kit KIT --server HOST:PORT --data FILE"), class_="command")
    return fragment(command, element("p", clients), client)


def _pairs(pairs: Mapping[str, Json]) -> Markup:
    if not pairs:
        return Markup("")
    return element(
        "dl",
        *(element("div", element("dt", key), element("dd", _value_text(value))) for key, value in pairs.items()),
        class_="pairs",
    )


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
        "last line of the ledger": view.last.hash,
        **{f"machine: {key.removesuffix('_bytes')}": _size_text(key, value) for key, value in machine.items()},
    }
