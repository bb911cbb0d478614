"""The events of a ledger: a typed model per kind, shared by the writers and the readers.

To add an event, add its class here, or in a module of `_HOMES`. Readers ignore fields and kinds that they do not know.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from plait.errors import PeerError, check_format
from plait.objectives import SFT, Objective, objective_recorded
from plait.system.text import Json, printable

if TYPE_CHECKING:
    from plait.ledger.run_now import StatusSection


class Reason(StrEnum):
    """Why an answer does not count, for the ledger and the metrics; the codes are stable over versions.

    A client's own refusals (`RefusalReason` of the wire) appear beside these under their own names: need-full,
    base-mismatch, spec-mismatch, too-little-data, unusable-data, malformed, failed, busy, policy.
    """

    MALFORMED = "malformed"
    """Not an answer to this task, or bytes that violate the specification."""
    DIRECTION = "direction"
    """An envelope for the other direction."""
    WRONG_CLIENT = "wrong-client"
    """It names another client than the one asked."""
    WRONG_ROUND = "wrong-round"
    """It belongs to another round: late, or replayed."""
    WRONG_RUN = "wrong-run"
    """It belongs to another run."""
    WRONG_BASE = "wrong-base"
    """It belongs to another base."""
    WRONG_SPEC = "wrong-spec"
    """It has another adapter: method, rank, tensors, task."""
    WRONG_REFERENCE = "wrong-reference"
    """The delta is relative to an adapter that the client was not sent."""
    SIGNATURE = "signature"
    """Not signed by the key that the client proved to hold."""
    WEIGHT = "weight"
    """Its examples or tokens differ from the client's own statement."""
    FIGURE = "figure"
    """A metric or loss that no honest client could have."""
    OVERFLOW = "overflow"
    """Elements so large that their sums would leave float32."""
    UNFIT = "unfit"
    """No rule could fold it, or this one not in this round: for example, a frozen side has changed."""
    NORM = "norm"
    """A factor, or the product, moved much further than those of the others (see validate.py)."""
    SHARES = "shares"
    """Shares of its secrets of a masked sum that their holder cannot open, or that are not of these secrets."""
    COMPLAINT = "complaint"
    """It reported another's shares as unreadable, and they can be opened."""
    RULE = "rule"
    """The rule refused it."""
    NO_ANSWER = "no-answer"
    """The client could not be reached, or its app failed."""
    LATE = "late"
    """No answer before the deadline."""
    SILENT = "silent"
    """Connected, but without progress for too long (see channel.py)."""
    SLOW = "slow"
    """Far slower than the others."""
    STALE = "stale"
    """It began with an adapter that is too many rounds old (see buffer.py)."""
    SAME_NAME = "same-name"
    """Another node takes part under this name."""
    RANK = "rank"
    """It stated one largest rank, then another."""


SCHEMA = 1
"""Version of the events below; the first event of a ledger states it."""

# The unit of `took_s`.
_SHORTEST_S = 0.001
Count = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class EventPart(BaseModel):
    """An object inside an event."""

    # A number that JSON lacks is kept, so that the ledger refuses it.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class Event(EventPart):
    """The fields of all events; an event of an unknown kind is read as these alone."""

    event: ClassVar[str] = ""  # its kind in the ledger
    # whether it reveals nothing of single clients' data, so that every ledger has all of it; of the core's events
    # `plait.ledger.ledger` lists what remains
    is_public: ClassVar[bool] = False
    seq: Annotated[Count, Field(exclude=True)] = 0  # its line, from 0; given by the ledger, like the two below
    time: Annotated[Number, Field(exclude=True)] = 0.0  # when it was written, in seconds since 1970
    # SHA-256 of its line, in hexadecimal; it covers every line before it
    hash: Annotated[str, Field(exclude=True)] = ""

    @property
    def logged(self) -> Mapping[str, float | None]:
        """What trackers log of the event, by name; it then has a `round`."""
        return {}

    @property
    def sections(self) -> "Mapping[str, StatusSection]":
        """What a run's status has from this event on, by name."""
        return {}

    @property
    def pace(self) -> tuple[str, float, float] | None:
        """A client, how long it trained, and the time from task to answer, in seconds; None if it has none."""
        return None

    def is_repeated(self, finished: int, *, is_evaluated: bool) -> bool:
        """Whether a run that is resumed after round `finished`, perhaps evaluated, does this again."""
        del finished, is_evaluated
        return False

    def fields(self) -> dict[str, Json]:
        """The fields as JSON values, without those that the ledger gives; fields that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Base(EventPart):
    """The frozen model."""

    name: str
    fingerprint: str = ""  # of weights, configuration and tokenizer, in hexadecimal
    parameters: Count | None = None
    task: str = "causal-lm"  # ``causal-lm`` or ``classification``


class Adapter(EventPart):
    """The adapter that is trained."""

    method: str = ""  # of PEFT
    rank: Count | None = None  # None where the method has none
    alpha: Number | None = None  # the scaling factor is alpha / rank
    target_modules: JsonValue = None  # as in PEFT's configuration
    trainable_parameters: Count
    tensors: Count = 0
    spec_digest: str = ""  # SHA-256 of its spec, in hexadecimal


class CombiningRule(EventPart):
    """What a ledger records of a run's rule (see `plait.aggregation.Rule`)."""

    name: str
    personal: str = ""  # the side that stays at the clients, A or B; empty where none does


class Plugin(EventPart):
    """A user's own part of a run."""

    kind: str  # what it is, such as ``rule``
    name: str  # as the settings name it, without options
    sha256: str = ""  # of its source, in hexadecimal; empty where there is none to read
    distribution: str = ""  # name and version of the installed distribution that brings it; empty if none


class DataUsed(EventPart):
    """The data of a run, if its clients are simulated."""

    name: str
    fingerprint: str  # SHA-256 of all records in their order, in hexadecimal
    records: Count  # to train on; where `held_out` is 0, their end is held out
    held_out: Count = 0  # records of a split that is held out


class RunStarted(Event):
    """The first event of a run."""

    event = "run_started"
    schema_version: Count = SCHEMA  # `SCHEMA` of the version that began it
    config: Mapping[str, JsonValue]  # all settings under the keys that users write
    base: Base
    adapter: Adapter
    versions: Mapping[str, JsonValue] = {}
    run: str = ""  # the run's id, in hexadecimal
    name: str = ""
    seed: Count
    derived: tuple[str, ...] = ()  # keys of the settings that nobody gave
    # what a run on Flower's SuperLink names as ``data``, for nodes that take a part of it; None for every other run
    superlink_data: str | None = None
    # of the simulated clients; None where clients have their own, and in a run with differential privacy
    data: DataUsed | None = None
    rule: CombiningRule | None = None  # how updates are combined
    plugins: tuple[Plugin, ...] = ()  # the user's own parts, and their sources when the run began
    # the adapters that the run begins with; None for a run that begins from its seed
    parents: tuple[Mapping[str, JsonValue], ...] | None = None
    full_model_bytes: Count  # the whole model in float32
    machine: Mapping[str, JsonValue] = {}  # see `plait.system.machine.describe`

    @property
    def learned(self) -> Objective:
        """What clients learn."""
        return objective_recorded(str(self.config.get("objective", SFT)))

    @property
    def is_async(self) -> bool:
        """Whether rounds are asynchronous."""
        return str(self.config.get("rounds-mode", "")).startswith("async")


def start_of(recorded: Sequence[Event]) -> RunStarted | None:
    """The first event of a run's ledger; None for an empty ledger, or another's than a run's."""
    return recorded[0] if recorded and isinstance(recorded[0], RunStarted) else None


class Resumed(Event):
    """An interrupted run continues after `round`."""

    event = "resumed"
    round: Count = 0


class Interrupted(Event):
    """The user asked to stop; `round` is the last finished one."""

    event = "interrupted"
    round: Count = 0


class RunFinished(Event):
    """All rounds are done."""

    event = "run_finished"
    rounds: Count = 0
    wall_s: Number | None = None  # working time, without pauses between interruption and resumption
    peak_rss_bytes: Count | None = None  # memory of the server's process, or of the whole simulation
    adapter: str = ""  # digest of the adapter that is published
    kept_round: Count | None = None  # its round


class WaitingForClients(Event):
    """Too few clients can take part."""

    event = "waiting_for_clients"
    here: Count = 0  # clients attached
    fit: Count = 0  # how many of them can take part
    unfit: Count = 0  # how many of them cannot
    wanted: Count  # how many the run waits for
    missing: tuple[str, ...] = ()  # some that took part before


class ClientsGathered(Event):
    """The run continues after it waited: `fit` clients of `wanted` can take part."""

    event = "clients_gathered"
    fit: Count = 0
    wanted: Count = 0


class DescribedClient(EventPart):
    """One client's description of itself."""

    client: str
    train_examples: Count = 0  # sequences that it trains on
    train_tokens: Count = 0
    held_out_examples: Count = 0  # sequences that are held out and evaluated
    held_out_tokens: Count = 0
    rank: Count | None = None  # of its adapter
    histogram: Mapping[str, Count] = {}  # its examples by label or owner
    cut_examples: Count = 0  # conversations and preferences whose end is beyond the sequence length
    left_out_examples: Count = 0  # those of which nothing to learn from is within it
    repeated_examples: Count = 0  # held-out sequences that repeat training text
    judge_examples: Count = 0  # sequences that are held out and decide nothing; 0 without a judge part
    judge_tokens: Count = 0
    public_key: str | None = None  # Ed25519, in hexadecimal; None for a simulated client


class ClientsDescribed(Event):
    """New clients, or clients that describe themselves differently than before."""

    event = "clients_described"
    clients: tuple[DescribedClient, ...]


class ClientTurnedAway(Event):
    """A client that cannot take part."""

    event = "client_turned_away"
    node: Count | None = None  # the driver's number of it
    client: str = ""  # its name, where it is known
    reason: str = ""
    detail: str = ""  # a sentence, the client's own where it gave one

    @property
    def name(self) -> str:
        """The client's name, or its node's number."""
        return self.client or f"node {self.node}"


class RoundStarted(Event):
    """The clients of a round are selected."""

    event = "round_started"
    round: Count
    cohort: tuple[str, ...] = ()
    steps: Mapping[str, Count] | None = None  # their optimizer steps, where each has its own

    @property
    def asked(self) -> dict[tuple[int, str], int]:
        """The steps that clients were asked for, by round and client; none if all were asked for as many."""
        return {(self.round, client): number for client, number in (self.steps or {}).items()}


class ClientReplaced(Event):
    """In `round`, `client` failed and `by` replaces it, with `steps` of its own where each client has."""

    event = "client_replaced"
    round: Count
    client: str
    by: str
    steps: Count | None = None

    @property
    def asked(self) -> dict[tuple[int, str], int]:
        """As of `RoundStarted`."""
        return {(self.round, self.by): self.steps} if self.steps else {}


class RoundMissed(Event):
    """The `attempt` at `round` got `received` usable updates, fewer than its quorum."""

    event = "round_missed"
    round: Count
    attempt: Count = 1
    received: Count = 0


class Broadcast(Event):
    """A task was sent to a client."""

    event = "broadcast"
    round: Count = 0  # 0 for all that comes before training
    client: str
    purpose: str = ""  # ``describe``, ``train``, ``evaluate`` or ``judge``
    downlink_bytes: Count  # everything that was sent
    payload_bytes: Count | None = None
    envelope_bytes: Count | None = None
    codec: str | None = None
    bits_per_parameter: Number | None = None  # payload over parameters


class ReplyReceived(Event):
    """An answer other than an update: `client` sent `uplink_bytes` for a task of `purpose` in `round`."""

    event = "reply_received"
    round: Count = 0
    client: str
    purpose: str = ""
    uplink_bytes: Count = 0


MASKED_CODEC = "ring"
"""What `UpdateReceived.codec` is for an update under masks."""


class UpdateReceived(Event):
    """An update was accepted and stored."""

    event = "update_received"
    round: Count  # that it was trained in
    client: str
    uplink_bytes: Count  # everything that came
    payload_bytes: Count | None = None
    envelope_bytes: Count | None = None
    codec: str = ""
    bits_per_parameter: Number | None = None  # payload over parameters
    distortion: Number | None = None  # relative error of the encoding, stated by the client
    codec_s: Number | None = None  # seconds that encoding and decoding took
    examples: Count = 0  # training sequences that the client states
    tokens: Count = 0
    train_loss: Number | None = None  # mean over its local steps
    # of its first local step, before any training; None if its trainer does not report it, or if the step has fewer
    # than four sequences
    first_loss: Number | None = None
    # peak learning rate, the last where it follows slopes; None if its trainer does not report it
    learning_rate: Number | None = None
    # fraction of its local steps that were shortened (`plait.training.learner`); None likewise
    shortened: Number | None = None
    # mean reward of the completions that it sampled (`--objective grpo`); None where nothing is rewarded
    reward: Number | None = None
    # those whose reward was no finite number, which count for nothing; None likewise
    refused_completions: Count | None = None
    train_s: Number | None = None
    took_s: Number | None = None  # seconds from task to answer; None on a virtual clock
    digest: str = ""  # SHA-256 of the decoded delta, in hexadecimal
    norms: Mapping[str, Number] = {}  # how large it is (see `plait.rounds.validate`)
    signed: str | None = None  # the bytes that the client's key signed, in hexadecimal; None where clients have no keys
    signature: str | None = None  # Ed25519 over those, in hexadecimal
    epsilon: Number | None = None  # of its records so far, by its own account; None where they are not private
    # in an asynchronous run the round that it is folded in; None in a synchronous one, like the two below
    fold: Count | None = None
    staleness: Count | None = None  # folds between the adapter that it began with and the one that it is folded into
    weight: Number | None = None  # how much it counts in its fold; relative to a whole update
    clients: Count | None = None

    @property
    def counted_in(self) -> int:
        """The round whose step it is a part of."""
        return self.round if self.fold is None else self.fold

    @property
    def pace(self) -> tuple[str, float, float] | None:
        """By the client's own word: no longer than its answer took, and not so short that its speed overflows."""
        if not self.train_s or not self.took_s:
            return None
        return self.client, min(max(self.train_s, _SHORTEST_S), self.took_s), self.took_s


class UpdateRefused(Event):
    """An update or evaluation that does not count, or was never received."""

    event = "update_refused"
    round: Count
    client: str
    reason: str = ""
    detail: str = ""
    uplink_bytes: Count = 0  # received nevertheless
    # of a masked sum, in which the client dropped out; after ``training`` its update counts all the same
    stage: str = ""

    @property
    def why(self) -> str:
        """The code, with the stage of a masked sum."""
        return f"{self.reason} ({self.stage})" if self.stage else self.reason


class RuleDiagnostics(EventPart):
    """How far a round's result is from the exact mean, of products of factors or of bottlenecks' outputs.

    Figures are 0 where everything is 0, and None where they are not known.
    """

    exact_norm: Number | None = None  # Frobenius norm of the weighted mean of scale_k B_k A_k, over all modules
    error: Number  # distance of the result from it, as a fraction of `exact_norm`
    covariance: Number  # the same of the product of the mean factors: the error from averaging B and A separately
    # exponential of the entropy of the exact mean's singular values (Roy and Vetterli, 2007), the mean over modules
    effective_rank: Number | None = None
    # norm of the change of the exact mean over the mean of the clients' own: 1 where all clients move alike,
    # 1 / sqrt(clients) where at right angles
    agreement: Number | None = None
    modules: Count | None = None
    drift: Mapping[str, Number] = {}  # by client, the change of its products, or of its outputs
    update_norms: Mapping[str, Number] = {}  # by client, of its delta over all tensors
    inputs: Count | None = None  # random inputs on which the outputs of bottlenecks were compared; None for products


class RoundFinished(Event):
    """A round's updates were aggregated into the adapter."""

    event = "round_finished"
    round: Count
    rule: str = ""
    received: Count = 0
    refused: Count = 0  # number of updates that the round lacked
    update_norm: Number | None = None  # of the round's step
    clipped: tuple[str, ...] | None = None  # clients whose updates were scaled down; None if clipping is off
    weight_capped: tuple[str, ...] | None = None  # clients whose weight was reduced
    figures: Mapping[str, Number] | None = None  # the rule's own
    diagnostics: RuleDiagnostics | None = None  # None where the adapter has neither pairs of factors nor bottlenecks
    adapter: str = ""  # digest of the adapter that clients hold from here on, in hexadecimal
    broadcast_distortion: Number | None = None  # relative error of the broadcast's encoding
    broadcast_codec_s: Number | None = None
    wall_s: Number | None = None
    virtual_s: Number | None = None  # the virtual clock at its end; None without one


class Certainty(EventPart):
    """The uncertainty of a loss. Margins are half of a 95 % interval."""

    loss_margin: Number | None = None
    change: Number | None = None  # of the loss since the start of the run, on the same sequences
    change_margin: Number | None = None
    # fraction of the examples whose label was predicted; of preferences, of those in which the chosen reply has the
    # higher reward
    accuracy: Number | None = None
    accuracy_interval: tuple[Number, Number] | None = None  # 95 % interval of the accuracy
    reward_margin: Number | None = None  # of preferences, the mean lead of the chosen reply's reward
    metrics: Mapping[str, Number] | None = None  # those that `--eval-metrics` names, by name
    confusion: tuple[tuple[Count, ...], ...] | None = None  # counts of each class (row) predicted as each


class Score(Certainty):
    """Mean `loss` on held-out data: nats per token; nats per example for labels; minus the mean reward (`grpo`)."""

    loss: Number

    def change_since(self, before: Self) -> float:
        """The change of the loss: on the same sequences if that is known."""
        return self.loss - before.loss if self.change is None else self.change


class ClientScore(Score):
    """The loss of one client, over `tokens` label tokens in `sequences`."""

    tokens: Count | None = None
    sequences: Count | None = None


class MeanScore(Score):
    """The loss over all held-out tokens, and `by_client` every client's own."""

    by_client: Mapping[str, ClientScore] = {}


class Evaluated(Event, MeanScore):
    """The adapter after `round`, of digest `adapter`, was evaluated; `own` covers personalized adapters, if any.

    `virtual_s` is the virtual clock when the losses were in; None without one.
    """

    event = "evaluated"
    round: Count
    adapter: str = ""
    own: MeanScore | None = None
    virtual_s: Number | None = None


class Judged(Event, MeanScore):
    """The adapter after `round`, which the run ends with, was measured on the clients' judge parts, and nothing else.

    `change` is against the base without any adapter; `own` covers personalized adapters, if any.
    """

    event = "judged"
    round: Count
    adapter: str = ""
    own: MeanScore | None = None

    @property
    def logged(self) -> Mapping[str, float | None]:
        """The final figure."""
        return {"judge/loss": self.loss, "judge/change": self.change, "judge/accuracy": self.accuracy}

    @property
    def sequences(self) -> int | None:
        """How many sequences it is of; None where the clients keep that to themselves."""
        return sum(score.sequences or 0 for score in self.by_client.values()) or None


class StepTakenBack(Event):
    """The evaluation after `round` was worse than the best one before."""

    event = "step_taken_back"
    round: Count
    worse: Number  # the rise of the mean held-out loss above the best evaluation, in nats
    accepted: Count = 0  # the last round whose evaluation was not worse
    scale: Number = 1.0  # of the steps that follow, at most 1
    taken_back: str = ""  # ``half`` or ``all`` of the way since `accepted`
    adapter: str = ""  # digest of the adapter that clients hold from here on, in hexadecimal
    broadcast_distortion: Number | None = None  # relative error of the broadcast's encoding
    by: str | None = None  # the metric that is meant in the place of the loss

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        how = (
            f"{printable(self.by)} was {self.worse:.3f} worse than in"
            if self.by
            else f"loss was {self.worse:.3f} above"
        )
        rose = f"After round {self.round} the held-out {how} the best evaluation"
        since = f"the step since round {self.accepted}"
        if self.taken_back == "half":
            return f"{rose}: half of {since} was taken back, and later steps count {self.scale:g} times."
        return f"{rose}: {since} was taken back."


class NotPublished(Event):
    """The adapter after `round` is not published: that of round `kept` stays."""

    event = "not_published"
    round: Count
    kept: Count = 0
    # how far its held-out loss is above that of round `above`, in nats, by the mean or the median of clients; None if
    # it is not known whether it is above the base's
    risen: Number | None = None
    above: Count = 0
    # for how many clients it is higher, and of how many; None where losses of single clients are not known
    higher: tuple[Count, Count] | None = None
    by: str | None = None  # the metric that is meant in the place of the loss

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        if self.risen is None:
            why = "it is not known to be better than the base"
        else:
            by = "of the mean or the median client"
            most = f" ({by}), higher for {self.higher[0]} of {self.higher[1]} clients" if self.higher else ""
            other = f"that of round {self.above}" if self.above else "the base's"
            why = f"its held-out loss is {self.risen:.3f} above {other}{most}"
            if self.by:
                what = f"held-out {printable(self.by)}"
                why = f"its {what} is {self.risen:.3f} worse than {other}{most.replace('higher', 'worse')}"
        return f"The adapter of round {self.round} is not published, because {why}; that of round {self.kept} stays."


class EndedEarly(Event):
    """The run ends after `round`, before its last one."""

    event = "ended_early"
    round: Count
    reason: str

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        return f"The run ended after round {self.round}: {printable(self.reason, limit=300)}."


class Reference(Event, Certainty):
    """A baseline with the same total steps was trained."""

    event = "reference"
    kind: str  # ``central`` on pooled data, or ``local``, each client alone
    held_out_loss: Number  # mean over all held-out tokens at the end
    held_out_loss_by_round: tuple[Number | None, ...] = ()  # index = round; None where it was not evaluated
    everywhere: Number | None = None  # of ``local``, mean loss of its adapters on all clients' held-out data
    by_client: Mapping[str, Number] = {}  # loss at the end on each client's held-out data
    steps: Count | None = None
    batch_size: Count | None = None
    wall_s: Number | None = None

    @property
    def final(self) -> Score:
        """The final loss, with its uncertainty."""
        return Score(loss=self.held_out_loss, **{name: getattr(self, name) for name in Certainty.model_fields})


class MembershipAttack(EventPart):
    """How well a score distinguishes trained sequences from held-out ones."""

    name: str  # of the score; controls use the base alone
    auc: Number  # area under the ROC curve; 0.5 is chance
    margin: Number  # of its 95 % interval
    tpr: Number  # part of the members that are recognised at a false-positive rate of 1 %


class Audited(Event):
    """Attacks were made on the finished run, and its operator had the figures recorded."""

    event = "audited"
    adapter: str  # that was attacked, its digest
    members: Count = 0
    others: Count = 0
    group: str = ""  # column of the groups that were told apart; empty where sequences were
    # on membership. They are computed from the data without noise, so no epsilon covers them
    attacks: tuple[MembershipAttack, ...] = ()
    # that guesses about groups prove, or else canary clients, with 95 % certainty; None without either
    epsilon_bound: Number | None = None
    epsilon_most: Number | None = None  # what perfect guesses would prove
    canaries: Count = 0  # clients made up for it

    @property
    def unit(self) -> str:
        """What was told apart, in words."""
        return f"groups ('{printable(self.group)}')" if self.group else "sequences"


class ClientErased(Event):
    """Everything kept of a client is erased from here on: its updates, its state and its own adapter."""

    event = "client_erased"
    client: str


class PublishFailed(Event):
    """The adapter of `round` could not be published, for the reason in `detail`; the run continues."""

    event = "publish_failed"
    round: Count
    detail: str = ""


EVENTS: tuple[type[Event], ...] = tuple(model for model in Event.__subclasses__() if model.event)
"""Every kind of event of the core."""

KINDS: Mapping[Json, type[Event]] = {model.event: model for model in EVENTS}
"""The same, by its name in the ledger."""


def parse_event(line: Mapping[str, Json]) -> Event:
    """The event in one line of a ledger.

    Args:
        line: its JSON object; null is the same as missing.

    Raises:
        PeerError: a field is missing or is not what it must be.
    """
    name = line.get("event")
    if name == RunStarted.event:
        check_format("the ledger", line.get("schema_version", SCHEMA), SCHEMA)
    model = (KINDS.get(name) or _of_part(name)) if isinstance(name, str) else Event
    try:
        return model.model_validate({key: value for key, value in line.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))[:60]
        where = f"event {str(line.get('seq', '?'))[:20]} ({model.event or 'unknown'})"
        if first["type"] == "missing":
            raise PeerError(f"{where}: '{key}' is missing") from error
        got, expected = repr(first["input"])[:60], first["msg"].removeprefix("Input should be ")
        raise PeerError(f"{where}: '{key}' is {got}, expected {expected}") from error


_HOMES: Mapping[str, str] = {
    **dict.fromkeys(("fleet_described", "device_worked"), "plait.ledger.fleet"),
    **dict.fromkeys(
        ("privacy_started", "noise_intended", "privacy_spent", "client_withdrawn", "withdrawn"), "plait.ledger.privacy"
    ),
    **dict.fromkeys(("sum_unmasked", "group_left_out", "evaluation_missed"), "plait.ledger.redaction"),
}
"""The module of each other event; most runs have none of them."""


def _of_part(kind: str) -> type[Event]:
    """The class of another event; `Event` for an unknown kind."""
    if kind not in _HOMES:
        return Event
    import_module(_HOMES[kind])
    return next(each for each in Event.__subclasses__() if each.event == kind)
