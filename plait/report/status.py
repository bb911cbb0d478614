"""A server's status as tables. It came over a network: nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from plait.report.table import Table
from plait.report.wording import bytes_text, clean, duration_text, plural

_MOST_WORDS = 300


def status_tables(said: Mapping[str, object]) -> list[Table]:
    """The round and the clients, from a server's status."""
    tables = [_run(said), _clients(said)]
    return [*tables, unfit] if (unfit := _unfit(said)).rows else tables


def _run(said: Mapping[str, object]) -> Table:
    late = _list(said, "late")
    rows = (
        ("run", _text(said.get("run"))),
        ("state", _text(said.get("state"))),
        ("round", f"{_count(said.get('round'))} of {_count(said.get('rounds'))}"),
        ("clients attached", _attached(said)),
        ("late", ", ".join(map(_text, late)) if late else "none"),
        ("deadline", _seconds(said.get("deadline_s")) or "none"),
        ("time left", _seconds(said.get("eta_s")) or "not known yet"),
        *_staleness(said),
        *_told(said),
        ("sent", bytes_text(_number(said.get("downlink_bytes")) or 0)),
        ("received", bytes_text(_number(said.get("uplink_bytes")) or 0)),
    )
    return Table("Run", ("", ""), rows, text_columns=(0, 1))


def _staleness(said: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    rounds = _number(said.get("staleness"))
    return () if rounds is None else (("staleness", f"{rounds:.1f} rounds, mean of the newest updates"),)


def _told(said: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What the cards of privacy and masks say of the run."""
    told = said.get("told")
    if not isinstance(told, dict):
        return ()
    cards = cast("Mapping[str, object]", told)
    return tuple(
        (_text(title), _text(cast("Mapping[str, object]", card).get("text")))
        for title, card in cards.items()
        if isinstance(card, dict)
    )


def _attached(said: Mapping[str, object]) -> str:
    nodes = _objects(said, "nodes")
    joining = sum(not node.get("ready") for node in nodes)
    return f"{len(nodes)}, {joining} of them still getting ready" if joining else f"{len(nodes)}"


def _clients(said: Mapping[str, object]) -> Table:
    cohort = {_text(entry.get("name")): entry for entry in _objects(said, "cohort")}
    nodes = {_text(entry.get("name")): entry for entry in _objects(said, "nodes")}
    away = {_text(entry.get("name")): entry for entry in _objects(said, "nodes_away")}
    rows: list[tuple[str, ...]] = []
    for name in sorted({*cohort, *nodes, *away}):
        node, task = nodes.get(name) or away.get(name, {}), cohort.get(name, {})
        state = _text(task.get("state")) if task else "ready" if node.get("ready") else "away" if name in away else ""
        waiting = _seconds(task.get("waiting_s")) or _seconds(node.get("away_s"))
        rows.append(
            (
                name,
                state or "joining",
                waiting,
                _seconds(task.get("late_s")),
                _text(node.get("doing")),
                bytes_text(_number(node.get("downlink_bytes")) or 0),
                bytes_text(_number(node.get("uplink_bytes")) or 0),
            )
        )
    headings = ("client", "state", "for", "late by", "doing", "sent", "received")
    return Table(plural(len(rows), "client"), headings, tuple(rows), text_columns=(0, 1, 4))


def _unfit(said: Mapping[str, object]) -> Table:
    rows = tuple(
        (_text(entry.get("name")), _text(entry.get("reason")), _words(entry.get("detail")))
        for entry in _objects(said, "unfit")
    )
    return Table("Cannot take part", ("client", "reason", "its message"), rows, text_columns=(0, 1, 2))


def _objects(said: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    return [cast("Mapping[str, object]", entry) for entry in _list(said, key) if isinstance(entry, dict)]


def _list(said: Mapping[str, object], key: str) -> list[object]:
    value = said.get(key)
    return cast("list[object]", value) if isinstance(value, list) else []


def _text(value: object) -> str:
    return clean(value, limit=60) if isinstance(value, str) else ""


def _words(value: object) -> str:
    return clean(value, limit=_MOST_WORDS) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(value: object) -> str:
    number = _number(value)
    return "?" if number is None else f"{number:.0f}"


def _seconds(value: object) -> str:
    number = _number(value)
    return "" if number is None else duration_text(number)
