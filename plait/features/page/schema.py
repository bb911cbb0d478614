"""What the HTTP interface answers, as types, and the OpenAPI description that is made from them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, NotRequired, cast

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, with_config
from typing_extensions import TypedDict

from plait import __version__
from plait.adapters import Json

_STRICT = ConfigDict(extra="forbid")
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(description="seconds; a time is in seconds since 1970")]
State = Annotated[
    str,
    Field(
        pattern="^(ready|chosen|training|done|evaluating|late|away|refused)$",
        description="ready: not asked; chosen: in this round, not asked yet; done: its update of this round counts; "
        "late, away: its update will not count, because it came too late or not at all; refused: its update, or itself",
    ),
]


@with_config(_STRICT)
class Client(TypedDict):
    """One client."""

    state: NotRequired[State]
    since: NotRequired[Seconds]
    detail: NotRequired[str]
    examples: NotRequired[Count]
    tokens: NotRequired[Count]
    held_out: NotRequired[Count]
    rank: NotRequired[Count]
    uplink_bytes: NotRequired[Count]
    downlink_bytes: NotRequired[Count]
    updates: NotRequired[Count]
    updated_round: NotRequired[Annotated[Count, Field(description="of its newest update that counts")]]
    given: NotRequired[Annotated[Seconds, Field(description="when its task of this round was sent")]]
    answered: NotRequired[Seconds]
    train_s: NotRequired[Seconds]
    train_loss: NotRequired[float]
    learning_rate: NotRequired[float]
    drift: NotRequired[float]
    losses: NotRequired[Annotated[dict[str, float], Field(description="of the shared adapter, by round")]]
    own_losses: NotRequired[Annotated[dict[str, float], Field(description="of its personalized adapter, by round")]]


@with_config(_STRICT)
class TakenBack(TypedDict):
    """A step that made the adapter worse."""

    worse: float
    scale: float
    kind: str
    text: str


@with_config(_STRICT)
class Round(TypedDict):
    """One round; 0 is everything before training."""

    started: NotRequired[Seconds]
    cohort: NotRequired[Count]
    received: NotRequired[Count]
    refused: NotRequired[Count]
    missed: NotRequired[Count]
    wall_s: NotRequired[Seconds]
    uplink_bytes: NotRequired[Count]
    downlink_bytes: NotRequired[Count]
    update_norm: NotRequired[float]
    drift: NotRequired[float]
    drift_max: NotRequired[float]
    agreement: NotRequired[float]
    effective_rank: NotRequired[float]
    error: NotRequired[float]
    loss: NotRequired[float]
    loss_margin: NotRequired[float]
    change: NotRequired[float]
    change_margin: NotRequired[float]
    accuracy: NotRequired[float]
    own_loss: NotRequired[float]
    own_change: NotRequired[float]
    worst: NotRequired[float]
    worst_client: NotRequired[str]
    taken_back: NotRequired[TakenBack]
    epsilon: NotRequired[float]


@with_config(_STRICT)
class CurrentRound(TypedDict):
    """The round in progress, or the last one."""

    number: NotRequired[Count]
    started: NotRequired[Seconds]
    cohort: Count
    received: NotRequired[Count]
    late_after_s: NotRequired[Annotated[Seconds, Field(description="a client that takes longer counts as late")]]


@with_config(_STRICT)
class Refusal(TypedDict):
    """Something that was not accepted."""

    time: Seconds
    round: NotRequired[Count]
    client: str
    reason: str
    detail: str


@with_config(_STRICT)
class BaseModel(TypedDict):
    """The frozen model."""

    name: str
    parameters: NotRequired[Count]
    task: str
    fingerprint: str


@with_config(_STRICT)
class ReferenceRun(TypedDict):
    """A baseline."""

    loss: float
    by_round: list[float | None]


@with_config(_STRICT)
class Privacy(TypedDict):
    """The guarantee of a run with differential privacy."""

    unit: str
    epsilon: float
    budget: NotRequired[float]
    delta: float
    warning: str
    facts: list[tuple[str, str]]


@with_config(_STRICT)
class Run(TypedDict):
    """A run as its ledger describes it; keys that do not apply, or not yet, are missing."""

    seq: Annotated[int, Field(ge=-1, description="the newest event of the ledger in it")]
    time: NotRequired[Seconds]
    hash: NotRequired[Annotated[str, Field(description="of that event")]]
    broken: NotRequired[Annotated[str, Field(description="the first break of the ledger's chain, in a sentence")]]
    run: NotRequired[str]
    name: NotRequired[str]
    state: NotRequired[str]
    started: NotRequired[Seconds]
    finished: NotRequired[Seconds]
    worked_s: NotRequired[Seconds]
    eta_s: NotRequired[
        Annotated[
            Seconds, Field(description="for the remaining rounds and evaluations, when the newest event was written")
        ]
    ]
    seed: NotRequired[Count]
    peer: NotRequired[Annotated[str, Field(description="what `clients` are: a client, or in a tree a region")]]
    rounds_planned: NotRequired[Count]
    done: NotRequired[Annotated[Count, Field(description="finished rounds")]]
    base: NotRequired[BaseModel]
    method: NotRequired[str]
    rank: NotRequired[Count]
    rule: NotRequired[str]
    personal: NotRequired[Annotated[str, Field(description="the side that stays at the clients")]]
    parameters: NotRequired[Annotated[Count, Field(description="trained")]]
    full_model_bytes: NotRequired[Count]
    settings: NotRequired[dict[str, JsonValue]]
    uplink_bytes: NotRequired[Count]
    downlink_bytes: NotRequired[Count]
    updates: NotRequired[Annotated[Count, Field(description="accepted, of different clients and rounds")]]
    refused: NotRequired[Count]
    round: NotRequired[CurrentRound]
    rounds: NotRequired[dict[str, Round]]
    clients: NotRequired[dict[str, Client]]
    refusals: NotRequired[Annotated[dict[str, Refusal], Field(description="the newest ones, by event")]]
    references: NotRequired[dict[str, ReferenceRun]]
    privacy: NotRequired[Privacy]
    interruptions: NotRequired[Count]
    ended_early: NotRequired[str]
    publish_failed: NotRequired[str]
    kept_round: NotRequired[Count]


@with_config(_STRICT)
class ParentAdapter(TypedDict):
    """An adapter that a run has begun from."""

    digest: Annotated[str, Field(description="SHA-256 of its file")]
    weight: float
    frozen: Annotated[bool, Field(description="whether it stayed as it is, beneath a new adapter")]
    run: Annotated[str | None, Field(description="the run of this list that it is the adapter of")]


@with_config(_STRICT)
class ListedRun(TypedDict):
    """A run in the list; the figures of its summary, if it has finished."""

    name: str
    written: Seconds
    finished: bool
    rounds: NotRequired[Count]
    clients: NotRequired[Count]
    base_held_out_loss: NotRequired[float]
    final_held_out_loss: NotRequired[float]
    uplink_bytes: NotRequired[Count]
    downlink_bytes: NotRequired[Count]
    began_from: NotRequired[list[ParentAdapter]]


@with_config(_STRICT)
class Runs(TypedDict):
    """Runs, those written to last first."""

    runs: list[ListedRun]


@with_config(_STRICT)
class QueuedRun(TypedDict):
    """A run of a federation's queue, waiting, running or past."""

    run: str
    state: Annotated[str, Field(pattern="^(queued|running|finished|failed|cancelled)$")]
    by: Annotated[str, Field(description="who submitted it")]
    priority: int
    cohort_labels: list[str]
    submitted: Seconds
    begun: Seconds | None
    ended: Seconds | None
    detail: Annotated[str, Field(description="why it failed, or who cancelled it")]
    base: str | None
    method: str | None
    rule: str | None
    wire: str | float | None
    rounds: Count | None
    clients: Count | None


@with_config(_STRICT)
class Queue(TypedDict):
    """The runs of a server that stays, those submitted last first."""

    runs: list[QueuedRun]
    broken: NotRequired[Annotated[str, Field(description="the break of the journal's chain, in a sentence")]]


@cache
def openapi() -> dict[str, Json]:
    """The OpenAPI 3.1 description."""
    schemas: dict[str, Json] = {}
    for model in (Run, Runs, Queue):
        schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas |= cast("dict[str, Json]", schema.pop("$defs", {}))
        schemas[model.__name__] = cast("Json", schema)
    run: Json = {"name": "run", "in": "path", "required": True, "schema": {"type": "string"}}
    after: Json = {
        "name": "after",
        "in": "query",
        "schema": {"type": "integer"},
        "description": "the event up to which the caller has the document; the header Last-Event-ID goes before it",
    }
    of: Json = {
        "name": "run",
        "in": "query",
        "schema": {"type": "string"},
        "description": "the id of the run in that document",
    }
    events = (
        "Server-sent events with the ledger's sequence number as id. A message is an array of JSON merge patches (RFC "
        "7396) for the document of the run; `event: document` brings the whole document instead, `event: clock` the "
        "server's time, `event: live` what each client does, as the server sees it, by name: `doing` in the client's "
        "words, and `state` (uploading, away) where the ledger cannot know it."
    )
    missing: Json = {"description": "there is no such run"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "plait's live page", "version": __version__},
        "paths": {
            "/api/runs": {"get": {"summary": "all runs", "responses": {"200": _json("Runs")}}},
            "/api/queue": {
                "get": {"summary": "the queue of a server that stays", "responses": {"200": _json("Queue")}}
            },
            "/api/runs/{run}": {
                "get": {"summary": "one run", "parameters": [run], "responses": {"200": _json("Run"), "404": missing}}
            },
            "/api/runs/{run}/events": {
                "get": {
                    "summary": "one run as it goes on",
                    "parameters": [run, after, of],
                    "responses": {
                        "200": {
                            "description": events,
                            "content": {"text/event-stream": {"schema": {"type": "string"}}},
                        },
                        "404": missing,
                        "503": {"description": "too many are watching"},
                    },
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _json(name: str) -> Json:
    schema: Json = {"$ref": f"#/components/schemas/{name}"}
    return {"description": name, "content": {"application/json": {"schema": schema}}}
