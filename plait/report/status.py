"""A server's status as tables. It came over a network: nothing in it is trusted."""

from collections.abc import Mapping
from typing import cast

from plait.report.table import Table
from plait.report.wording import bytes_text, clean, duration_text, plural


def status_tables(status: Mapping[str, object]) -> list[Table]:
    """The round and the clients, from a server's status."""
    tables = [_run(status), _clients(status)]
    return [*tables, unfit] if (unfit := _unfit(status)).rows else tables


def _run(status: Mapping[str, object]) -> Table:
    late = _list(status, "late")
    rows = (
        ("run", _text(status.get("run"))),
        ("state", _text(status.get("state"))),
        ("round", f"{_count(status.get('round'))} of {_count(status.get('rounds'))}"),
        ("clients attached", _attached(status)),
        ("late", ", ".join(map(_text, late)) if late else "none"),
        ("deadline", _seconds(status.get("deadline_s")) or "none"),
        ("time left", _seconds(status.get("eta_s")) or "not known yet"),
        *_staleness(status),
        *_cards(status),
        ("sent", bytes_text(_number(status.get("downlink_bytes")) or 0)),
        ("received", bytes_text(_number(status.get("uplink_bytes")) or 0)),
    )
    return Table("Run", ("", ""), rows, text_columns=(0, 1))


def _staleness(status: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    rounds = _number(status.get("staleness"))
    return () if rounds is None else (("staleness", f"{rounds:.1f} rounds, mean of the newest updates"),)


def _cards(status: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """The cards of privacy and masks."""
    sections = status.get("told")
    if not isinstance(sections, dict):
        return ()
    cards = cast("Mapping[str, object]", sections)
    return tuple(
        (_text(title), _text(cast("Mapping[str, object]", card).get("text")))
        for title, card in cards.items()
        if isinstance(card, dict)
    )


def _attached(status: Mapping[str, object]) -> str:
    nodes = _objects(status, "nodes")
    joining = sum(not node.get("ready") for node in nodes)
    return f"{len(nodes)}, {joining} of them still getting ready" if joining else f"{len(nodes)}"


def _clients(status: Mapping[str, object]) -> Table:
    cohort = {_text(entry.get("name")): entry for entry in _objects(status, "cohort")}
    nodes = {_text(entry.get("name")): entry for entry in _objects(status, "nodes")}
    away = {_text(entry.get("name")): entry for entry in _objects(status, "nodes_away")}
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


def _unfit(status: Mapping[str, object]) -> Table:
    rows = tuple(
        (_text(entry.get("name")), _text(entry.get("reason")), _text(entry.get("detail"), limit=300))
        for entry in _objects(status, "unfit")
    )
    return Table("Cannot take part", ("client", "reason", "its message"), rows, text_columns=(0, 1, 2))


def _objects(status: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    return [cast("Mapping[str, object]", entry) for entry in _list(status, key) if isinstance(entry, dict)]


def _list(status: Mapping[str, object], key: str) -> list[object]:
    value = status.get(key)
    return cast("list[object]", value) if isinstance(value, list) else []


def _text(value: object, *, limit: int = 60) -> str:
    return clean(value, limit=limit) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(value: object) -> str:
    number = _number(value)
    return "?" if number is None else f"{number:.0f}"


def _seconds(value: object) -> str:
    number = _number(value)
    return "" if number is None else duration_text(number)
