"""Four questions about a run, each answered in a line or two; advice on its settings; the command that repeats it."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from plait.config import RunConfig
from plait.ledger.run_now import RunNow
from plait.ledger.run_view import RunView
from plait.report.costs import SentBytes
from plait.report.wording import (
    accuracy_text,
    bytes_text,
    change_text,
    clean,
    count_text,
    duration_text,
    given_rate,
    loss_text,
    minus_text,
    moved_text,
    percent_text,
    plural,
    rates_sentence,
    repetition_sentence,
    times_text,
    truncation_sentence,
)
from plait.system.text import Json, printable


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its answer."""

    question: str
    short: str  # the answer in a word or a figure
    text: str
    is_bad: bool = False  # whether it is bad news


def answers(view: RunView) -> tuple[AnsweredQuestion, ...]:
    """All four; for an unfinished run, as of now."""
    return (_learned(view), _for_whom(view), _cost(view), _trust(view))


def final_figure(now: RunNow) -> str:
    """The loss of the published adapter on what decided nothing, in a sentence; empty before it is known."""
    judged = now.judged
    if judged is None:
        return ""
    clients = f" of {len(judged.by_client):,} of {plural(len(now.clients), 'client')}" if judged.by_client else ""
    where = f"{count_text(judged.sequences)} sequences{clients}" if judged.sequences else "data"
    shown = f"{now.loss_is_minus} {minus_text(judged.loss)}" if now.loss_is_minus else f"loss {loss_text(judged.loss)}"
    if judged.change is not None:
        shown += f" ({moved_text(judged, judged)} against the base)"
    if judged.accuracy is not None:
        shown += f", accuracy {accuracy_text(judged.accuracy, judged.accuracy_interval)}"
    own = f", {loss_text(judged.own.loss)} with personalized adapters" if judged.own else ""
    return f"Final figure, on {where} that no decision looked at: {shown}{own}."


def decided(view: RunView, losses: str) -> str:
    """That held-out losses, called so, decide too, and whether there is a figure of which this is not true."""
    known = final_figure(view)
    if view.settings.get("select", "last") == "last":
        return known
    if not known and view.finished:
        known = "No client has a part of its data that decides nothing (--judge-part)."
    decide = f"{losses} also decide which steps are kept and what is published, so the loss is slightly optimistic."
    return f"{decide} {known}".strip()


def _learned(view: RunView) -> AnsweredQuestion:
    question, base, final = "Did it learn?", view.base_evaluation, view.final_evaluation
    if any(card.headline for card in view.cards.values()):
        warned = next((card.warning for card in view.cards.values() if card.warning), "")
        text = f"Losses stay with the clients: the run is differentially private. {warned}".rstrip()
        return AnsweredQuestion(question, "Not shown", text, is_bad=bool(warned))
    if base is None or final is None or not final.round:
        if final is None or not view.not_published:
            return AnsweredQuestion(question, "Not yet", "No round has been evaluated.")
        return AnsweredQuestion(
            question,
            "No",
            "No adapter was better than the base on average and for most clients, so none is published.",
            is_bad=True,
        )
    text = f"Held-out loss {loss_text(base.loss)} → {loss_text(final.loss)} ({moved_text(final, base)})"
    if minus := view.learned.loss_is_minus:
        text = f"Mean {minus} {minus_text(base.loss)} → {minus_text(final.loss)}"
    elif base.accuracy is not None and final.accuracy is not None:
        after = accuracy_text(final.accuracy, final.accuracy_interval)
        text += f", {view.accuracy_name} {percent_text(base.accuracy)} → {after}"
    better = view.is_better
    if better is None:
        return AnsweredQuestion(question, "Not measurably", f"{text}: the change is within chance.", is_bad=True)
    if better:
        return AnsweredQuestion(question, "Yes", f"{text}.")
    lower = "a lower --learning-rate, fewer --local-steps or more data a client may help"
    return AnsweredQuestion(question, "No", f"{text}: this adapter is worse than the base; {lower}.", is_bad=True)


def _for_whom(view: RunView) -> AnsweredQuestion:
    question, peers = "For whom?", plural(view.client_count, "client")
    base, final = view.base_evaluation, view.final_evaluation
    both = [name for name in final.by_client if base and name in base.by_client] if final and final.round else []
    if final and not final.round and view.not_published:
        return AnsweredQuestion(question, peers, "No adapter is published, so nobody gains or loses.")
    if not both or base is None or final is None:
        return AnsweredQuestion(question, peers, "Losses of single clients are not known here.")
    changes = {name: final.by_client[name].loss - base.by_client[name].loss for name in sorted(both)}
    better = sum(change < 0 for change in changes.values())
    least, most = max(changes, key=lambda name: changes[name]), min(changes, key=lambda name: changes[name])
    ends = f"most {clean(most, limit=32)} ({change_text(changes[most])})"
    if least != most:
        ends += f", least {clean(least, limit=32)} ({change_text(changes[least])})"
    text = f"{peers}: {ends}."
    if own := view.own_evaluation:
        text += f" With personalized adapters the loss is {loss_text(own.loss)}."
    return AnsweredQuestion(question, f"{better:,} of {plural(len(changes), 'client')} gain", text, is_bad=not better)


def _cost(view: RunView) -> AnsweredQuestion:
    sent = view.sent
    text = f"{bytes_text(sent.uplink_bytes)} up, {bytes_text(sent.downlink_bytes)} down"
    if (raw := SentBytes.of(view).savings["bf16_adapter"]) is not None:
        text += f"; raw bfloat16 adapters take {times_text(raw)}"
    text += f". {plural(len(view.rounds), 'round')} took {duration_text(view.wall_s)}"
    if view.end and view.end.peak_rss_bytes:
        text += f" and {bytes_text(view.end.peak_rss_bytes)} of memory"
    if view.virtual_s is not None:
        text += f"; {duration_text(view.virtual_s)} on the simulated devices"
    return AnsweredQuestion("At what cost?", bytes_text(sent.total_bytes), f"{text}.")


def _trust(view: RunView) -> AnsweredQuestion:
    held_out = sum(client.held_out_examples for client in view.clients.values())
    measured = ""
    if held_out and not any(card.headline for card in view.cards.values()):
        measured = f"Measured on {count_text(held_out)} held-out sequences that no client trained on. "
        measured += f"{decided(view, 'They')} ".lstrip()
        final = view.final_evaluation
        if final is not None and final.change is not None and final.change_margin is None:
            measured += (
                f"They are from too few {'groups' if view.settings.get('group') else 'documents'} for an interval. "
            )
        if repeated := repetition_sentence(view.clients.values()):
            measured += f"{repeated} "
    in_the_open = "Measured and recorded", "The server saw each client's update. "
    short, seen = next((card.trust for card in view.cards.values()), in_the_open)
    checked = "plait verify checks the record."
    return AnsweredQuestion("Can I trust it?", short, f"{measured}{seen}{checked}")


# The output directory belongs to the run, not to its repetition.
_NOT_REPEATED = frozenset({"out"})
# Clients set these themselves, or they mean nothing without data.
_NOT_THE_SERVERS = frozenset({"data", "columns", "split", "partition", "reference"})
_SERVED_NAMES: Mapping[str, str] = {"clients": "min-clients"}
_SERVER = "plait server --kit plait-server"
_FLOWER = "flwr run ."


def is_deployed(config: Mapping[str, Json]) -> bool:
    """Whether clients brought their own data: then the server's settings name none."""
    return config.get("data") == ""


def repeat_command(config: Mapping[str, Json], superlink_data: str | None = None) -> tuple[str, ...]:
    """The command line that repeats the run, quoted for a shell: the command, then one option after another.

    Options at their defaults are left out; the report lists every setting. A deployed run is served again,
    with the kit that `plait provision` calls ``plait-server``; one on Flower's SuperLink is begun again there, in a
    checkout.

    Args:
        superlink_data: what a run on Flower's SuperLink names as ``data``; None for every other run.
    """
    if superlink_data is not None:
        given = {**config, "data": superlink_data, "out": "DIR"}
        return (_FLOWER, *(_pair(key, value) for key, value in given.items() if value is not None and value != ""))
    deployed = is_deployed(config)
    left_out = _NOT_REPEATED | (_NOT_THE_SERVERS if deployed else frozenset())
    names = _SERVED_NAMES if deployed else {}
    given = {key: value for key, value in config.items() if key not in left_out and value is not None and value != ""}
    options = [_option(names.get(key, key), value) for key, value in (given if deployed else _differing(given)).items()]
    return (_SERVER if deployed else "plait simulate", *options)


def _differing(given: Mapping[str, Json]) -> dict[str, Json]:
    """The settings that are not at their defaults."""
    usual = RunConfig().model_dump(by_alias=True)
    return {key: value for key, value in given.items() if key not in usual or usual[key] != value}


def _option(key: str, value: Json) -> str:
    key = printable(key)
    if isinstance(value, bool):
        return shlex.quote(f"--{key}" if value else f"--no-{key}")
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    # A value that begins with a dash would be read as an option.
    words = [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return shlex.join(words)


def _pair(key: str, value: Json) -> str:
    """A setting as `flwr run` reads it: a TOML pair, whose text ends at the first quotation mark that began it."""
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        quote = "'" if set(text) & set('"\\') else '"'
        text = f"{quote}{text}{quote}"
    return shlex.join(("-c", f"{printable(key)}={text}"))


_SHOWN_APART = frozenset({"out", "base", "data", "clients", "seed"})


def run_facts(view: RunView) -> tuple[str, ...]:
    """The base, the data and how many clients; then the settings that somebody gave other values than the defaults."""
    start, used = view.start, view.start.data
    data = f"{used.name}, {plural(used.records, 'record')}" if used else start.config.get("data") or "the clients' own"
    settled = _SHOWN_APART.union(start.derived)
    given = {key: value for key, value in _differing(start.config).items() if key not in settled}
    differing = ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()
    )
    facts = f"Base {start.base.name} · data: {data} · {plural(view.client_count, 'client')}"
    return (facts, f"Not at their defaults: {differing}") if differing else (facts,)


def advice(view: RunView) -> Iterator[str]:
    """Sentences; none if nothing stands out."""
    if sentence := truncation_sentence(view.clients.values(), seq_len=view.start.config.get("seq-len")):
        yield sentence
    given = given_rate(view.start.config)
    if given and (sentence := rates_sentence(view.updates.values(), given=given)):
        yield sentence
    for event in view.taken_back.values():
        yield event.sentence
    if view.taken_back and view.ended_early is None:
        yield "A lower --learning-rate, or lr of --server-optimizer, would avoid that."
    if view.ended_early:
        yield view.ended_early.sentence
    newest = max(view.not_published.values(), key=lambda event: event.round, default=None)
    if newest and view.end and newest.round > (view.end.kept_round or 0):
        yield f"{newest.sentence} Fewer --rounds may do as well."
