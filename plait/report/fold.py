"""Fold the events of a ledger into a `RunView`.

Bytes add up over everything that was sent, repeated rounds included; of a loss or an update that was recorded twice
(a resumed run repeats part of a round) the last record holds. Events of unknown kinds are passed over, so that an older
report reads a newer ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypedDict

from plait.adapters import Json, Task
from plait.errors import PeerError
from plait.report.record import Record
from plait.report.run_view import (
    Adapter,
    Base,
    Client,
    Diagnostics,
    Evaluation,
    LeftOut,
    Reference,
    Refusal,
    Round,
    RunView,
    Score,
    Traffic,
    Update,
)


class _Certainty(TypedDict):
    """The fields of a `Score` that say how sure it is."""

    loss_margin: float | None
    change: float | None
    change_margin: float | None
    accuracy_interval: tuple[float, float] | None


def fold_events(events: Sequence[Mapping[str, Json]]) -> RunView:
    """Fold the events of a ledger, in order, into a view.

    Raises:
        PeerError: the first event is not ``run_started``, or a field is missing or not what it must be.
    """
    if not events or events[0].get("event") != "run_started":
        got = repr(events[0].get("event"))[:60] if events else "empty"
        raise PeerError(f"beginning of the ledger is {got}, expected 'run_started'")
    start = _record(events[0])
    base, adapter = start.record("base"), start.record("adapter")
    end = next((_record(event) for event in events if event.get("event") == "run_finished"), None)
    return RunView(
        run=start.optional_text("run") or "",
        name=start.optional_text("name") or "",
        seed=start.count("seed"),
        config=start.record("config").fields,
        base=Base(
            name=base.text("name"),
            fingerprint=base.optional_text("fingerprint") or "",
            parameters=base.optional_count("parameters"),
            task=base.optional_text("task") or Task.CAUSAL_LM,
        ),
        adapter=Adapter(
            method=adapter.optional_text("method") or "",
            rank=adapter.optional_count("rank"),
            alpha=adapter.optional_number("alpha"),
            target_modules=adapter.fields.get("target_modules"),
            trainable_parameters=adapter.count("trainable_parameters"),
        ),
        full_model_bytes=start.count("full_model_bytes"),
        versions=start.record("versions").fields,
        machine=start.record("machine").fields,
        clients=_clients(events),
        rounds=_rounds(events),
        evaluations=_evaluations(events),
        updates=_updates(events),
        left_out=_left_out(events),
        refusals=_refusals(events),
        references=_references(events),
        traffic=_traffic(events),
        interruptions=len(_of_kind(events, "interrupted")),
        finished=end is not None,
        wall_s=_working_s(events, end),
        peak_rss_bytes=end.optional_count("peak_rss_bytes") if end else None,
        started_s=start.optional_number("time") or 0.0,
        last_hash=_record(events[-1]).optional_text("hash") or "",
    )


def _record(event: Mapping[str, Json]) -> Record:
    return Record(event, f"event {event.get('seq', '?')} ({event.get('event')})")


def _of_kind(events: Sequence[Mapping[str, Json]], kind: str) -> list[Record]:
    return [_record(event) for event in events if event.get("event") == kind]


def _clients(events: Sequence[Mapping[str, Json]]) -> tuple[Client, ...]:
    clients: dict[str, Client] = {}
    for event in _of_kind(events, "clients_described"):
        for record in event.records("clients"):
            histogram = record.record("histogram")
            client = Client(
                name=record.text("client"),
                train_examples=record.optional_count("train_examples") or 0,
                train_tokens=record.optional_count("train_tokens") or 0,
                held_out_examples=record.optional_count("held_out_examples") or 0,
                held_out_tokens=record.optional_count("held_out_tokens") or 0,
                histogram={name: histogram.count(name) for name in histogram.fields},
            )
            clients[client.name] = client
    return tuple(clients.values())


def _rounds(events: Sequence[Mapping[str, Json]]) -> tuple[Round, ...]:
    rounds: dict[int, Round] = {}
    for event in _of_kind(events, "round_finished"):
        number = event.count("round")
        rounds[number] = Round(
            number=number,
            received=event.optional_count("received") or 0,
            refused=event.optional_count("refused") or 0,
            update_norm=event.optional_number("update_norm"),
            wall_s=event.optional_number("wall_s"),
            adapter=event.optional_text("adapter") or "",
            rule=event.optional_text("rule") or "",
            diagnostics=_diagnostics(event.record("diagnostics")),
        )
    return tuple(rounds[number] for number in sorted(rounds))


def _diagnostics(record: Record) -> Diagnostics | None:
    if not record.fields:
        return None
    drift, norms = record.record("drift"), record.record("update_norms")
    return Diagnostics(
        error=record.number("error"),
        covariance=record.number("covariance"),
        effective_rank=record.optional_number("effective_rank"),
        agreement=record.optional_number("agreement"),
        drift={name: drift.number(name) for name in drift.fields},
        update_norms={name: norms.number(name) for name in norms.fields},
    )


def _evaluations(events: Sequence[Mapping[str, Json]]) -> tuple[Evaluation, ...]:
    evaluations: dict[int, Evaluation] = {}
    sent_bytes = 0
    for event in map(_record, events):
        sent_bytes += _sent(event).total_bytes
        if event.fields.get("event") != "evaluated":
            continue
        evaluation, own = _evaluation(event, event.count("round"), sent_bytes), event.record("own")
        if own.fields:
            evaluation = replace(evaluation, own=_evaluation(own, evaluation.round, sent_bytes))
        evaluations[evaluation.round] = evaluation
    return tuple(evaluations[number] for number in sorted(evaluations))


def _evaluation(record: Record, number: int, sent_bytes: int) -> Evaluation:
    by_client = record.record("by_client")
    scores = {name: _score(by_client.record(name)) for name in by_client.fields}
    return Evaluation(number, _score(record), scores, sent_bytes)


def _score(record: Record) -> Score:
    return Score(record.number("loss"), record.optional_number("accuracy"), **_certainty(record))


def _certainty(record: Record) -> _Certainty:
    ends = [end for end in record.numbers("accuracy_interval") if end is not None]
    return {
        "loss_margin": record.optional_number("loss_margin"),
        "change": record.optional_number("change"),
        "change_margin": record.optional_number("change_margin"),
        "accuracy_interval": (ends[0], ends[1]) if len(ends) == 2 else None,
    }


def _updates(events: Sequence[Mapping[str, Json]]) -> tuple[Update, ...]:
    updates: dict[tuple[int, str], Update] = {}
    for event in _of_kind(events, "update_received"):
        update = Update(
            round=event.count("round"),
            client=event.text("client"),
            uplink_bytes=event.count("uplink_bytes"),
            tokens=event.optional_count("tokens") or 0,
            examples=event.optional_count("examples") or 0,
            train_loss=event.optional_number("train_loss"),
            train_s=event.optional_number("train_s"),
            codec=event.optional_text("codec") or "",
            bits_per_parameter=event.optional_number("bits_per_parameter"),
            distortion=event.optional_number("distortion"),
        )
        updates[update.round, update.client] = update
    return tuple(updates[key] for key in sorted(updates))


def _refusals(events: Sequence[Mapping[str, Json]]) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(
            round=event.count("round"),
            client=event.text("client"),
            reason=event.optional_text("reason") or "",
            detail=event.optional_text("detail") or "",
        )
        for event in _of_kind(events, "update_refused")
    )


def _left_out(events: Sequence[Mapping[str, Json]]) -> tuple[LeftOut, ...]:
    """Whoever could not take part and was never described later; of each the last that was told."""
    left_out: dict[str, LeftOut] = {}
    for event in map(_record, events):
        if event.fields.get("event") == "client_turned_away":
            client = event.optional_text("client") or f"node {event.optional_count('node')}"
            left_out[client] = LeftOut(client, event.optional_text("reason") or "", event.optional_text("detail") or "")
        elif event.fields.get("event") == "clients_described":
            for client in event.records("clients"):
                left_out.pop(client.text("client"), None)
    return tuple(left_out.values())


def _references(events: Sequence[Mapping[str, Json]]) -> tuple[Reference, ...]:
    references: dict[str, Reference] = {}
    for event in _of_kind(events, "reference"):
        by_client = event.record("by_client")
        kind = event.text("kind")
        references[kind] = Reference(
            kind=kind,
            final=Score(event.number("held_out_loss"), event.optional_number("accuracy"), **_certainty(event)),
            loss_by_round=tuple(event.numbers("held_out_loss_by_round")),
            loss_by_client={name: by_client.number(name) for name in by_client.fields},
            everywhere=event.optional_number("everywhere"),
        )
    return tuple(references.values())


def _sent(event: Record) -> Traffic:
    match event.fields.get("event"):
        case "broadcast":
            return Traffic(downlink_bytes=event.count("downlink_bytes"))
        case "update_received" | "update_refused" | "reply_received":
            return Traffic(uplink_bytes=event.optional_count("uplink_bytes") or 0)
        case _:
            return Traffic()


def _traffic(events: Sequence[Mapping[str, Json]]) -> Mapping[tuple[int, str], Traffic]:
    total: dict[tuple[int, str], Traffic] = {}
    for event in map(_record, events):
        sent = _sent(event)
        if sent.total_bytes:
            key = event.optional_count("round") or 0, event.text("client")
            total[key] = total.get(key, Traffic()) + sent
    return total


def _working_s(events: Sequence[Mapping[str, Json]], end: Record | None) -> float:
    stated = end.optional_number("wall_s") if end else None
    if stated is not None:
        return stated
    times = [(_record(event).optional_number("time"), event.get("event")) for event in events]
    return sum(
        max(0.0, after - before)
        for (before, _), (after, kind) in pairwise(times)
        if before is not None and after is not None and kind != "resumed"
    )
