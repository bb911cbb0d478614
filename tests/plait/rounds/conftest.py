"""A federation in this process, with the real protocol and a model of a few numbers instead of PEFT and torch."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from plait import composition
from plait.adapters import AdapterSpec, AdapterState, Layout, parse_spec
from plait.aggregation import RULES, geometry_of, optimizer_for
from plait.aggregation.factors import fitted
from plait.guarantees import least_survivors
from plait.ledger.events import Adapter, Base, Resumed, RunStarted
from plait.ledger.ledger import Ledger, read_events, read_lines
from plait.ledger.privacy import spent_in
from plait.privacy import run as private_sums
from plait.privacy.client import RecordCosts, records_started
from plait.privacy.mechanism import ClientPrivacy
from plait.privacy.noise import RunKey
from plait.privacy.run import paying, with_private
from plait.rounds import coordinator
from plait.rounds.audit import replay
from plait.rounds.broadcasts import Broadcasts, follow
from plait.rounds.buffer import Buffer, with_buffer
from plait.rounds.channel import Clock, Identity, Liveness, NoAnswer, Purpose, TaskParts, round_and_attempt
from plait.rounds.client_pipeline import ClientContext, ClientPipeline, PlainSender
from plait.rounds.coordinator import Coordinator, Host, Way
from plait.rounds.data_journal import ClientSecret
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.fold import Aggregator
from plait.rounds.local_model import Coverage, DataSize, Moments, StepReport, Trained, TrainJob
from plait.rounds.paces import ClientSpeeds
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan, TaskSettings
from plait.rounds.run_state import (
    RankedAdapter,
    Ranks,
    RunState,
    advance,
    client_seed,
    initial_state,
    load_checkpoint,
    save_checkpoint,
)
from plait.rounds.spool import Refused, Spool, Weighting
from plait.rounds.terms import AgreedTerms
from plait.rounds.validate import NormBound, NormPolicy
from plait.secagg.collector import with_masks
from plait.secagg.masking import UnderMasks
from plait.secagg.rounds import MaskedRounds
from plait.trust.keys import NodeIdentity, NodeKey
from plait.wire.codecs import codec_for
from plait.wire.messages import DescribeTask, EvaluateTask, Reply, Task, TrainTask, decode_reply, encode_task
from plait.wire.settings import Settings

RANK = 2


def layout_of(rank: int) -> Layout:
    return Layout.of({"layer.lora_A.weight": [rank, 5], "layer.lora_B.weight": [3, rank]})


LAYOUT = layout_of(RANK)
FINGERPRINT = b"f" * 32
SEED = 11


def started(run: str = "", **fields: object) -> RunStarted:
    """The first event of a run on nothing."""
    base, adapter = Base(name="fake"), Adapter(trainable_parameters=0)
    return RunStarted(run=run, seed=SEED, config={}, base=base, adapter=adapter, full_model_bytes=0, **fields)


@dataclass(frozen=True)
class FakeModel:
    """Moves its adapter towards a target of its own, with a little noise from the task's seed.

    In the rounds in `astray` it goes four times as far the other way.
    """

    target: float
    train_examples: int
    held_out_tokens: int = 40
    astray: tuple[int, ...] = ()
    layout: Layout | None = None
    base_fingerprint: bytes = FINGERPRINT

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        request = parse_spec(spec_text)
        spec = replace(request, layout=self.layout or layout_of(request.rank or 0))
        wide = self.layout or layout_of(spec.init_rank or spec.rank)
        drawn = AdapterState(wide, np.random.default_rng(spec.init_seed).normal(size=wide.size).astype(np.float32))
        return spec, cut(drawn, spec) if spec.init_rank else drawn

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        size = DataSize(self.train_examples, 10 * self.train_examples, 4, self.held_out_tokens, {"fake": 4})
        if 0 < settings.judge_part <= self.train_examples:
            size = replace(size, judge_examples=4, judge_tokens=self.held_out_tokens)
        return replace(size, identity=repr((self.target, self.train_examples)).encode())

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        examples = min(self.train_examples, settings.local_steps * settings.batch_size)
        return Coverage(examples, 10 * examples)

    def train(self, job: TrainJob) -> Trained:
        state, carried = job.start, job.carried
        rate = job.settings.learning_rate or carried.learning_rate or 0.01 * (1 + job.settings.seed % 7)
        settings = replace(job.settings, learning_rate=rate)
        after = self.trained(state.flat, settings.seed, settings)
        if job.charge:
            drawn = np.random.default_rng(list(job.charge.key)).normal(size=after.shape)
            after = after + (0.1 * drawn).astype(after.dtype)
        frozen = [slot for slot in state.layout.slots if slot.name.split("lora_")[1][0] not in settings.trained]
        for slot in frozen:
            after[slot.offset : slot.offset + slot.size] = state.flat[slot.offset : slot.offset + slot.size]
        moments = None
        if settings.carry_moments:
            before = carried.moments or Moments.none(state.layout.size, len(state.layout.slots))
            after = after + np.float32(0.1) * before.mean
            moments = Moments(after - state.flat, before.square + 1, tuple(n + 1 for n in before.steps))
        report = StepReport(
            loss=1.5,
            tokens=80,
            seconds=0.25,
            first_loss=2.5,
            slope=None if carried.movement is None else float((state.flat - self.target) @ carried.movement),
            learning_rate=rate,
            shortened=0.5,
        )
        return Trained(AdapterState(state.layout, after), report, moments)

    def trained(self, flat: np.ndarray, seed: int, settings: Settings) -> np.ndarray:
        """The values after the local steps, in the precision of `flat`."""
        noise = np.random.default_rng(seed).normal(scale=0.01, size=flat.shape).astype(flat.dtype)
        rate = flat.dtype.type(settings.learning_rate * (-4 if settings.round in self.astray else 1))
        for _ in range(settings.local_steps):
            flat = flat + rate * (flat.dtype.type(self.target) - flat + noise)
        return flat

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> SequenceLosses:
        loss = float(np.mean((state.flat - self.target - settings.judging) ** 2))
        counts = (self.held_out_tokens - 6, 3, 2, 1)
        apart = (0.5, -0.5, 0.25, -0.25)
        sums = [loss * count + more for count, more in zip(counts, apart, strict=True)]
        return SequenceLosses(tuple(sums), counts, digest=str(self.held_out_tokens))


def cut(drawn: AdapterState, spec: AdapterSpec) -> AdapterState:
    wider = replace(spec, layout=drawn.layout, peft_config={**spec.peft_config, "r": spec.init_rank})
    fresh = AdapterState.zeros(spec.layout)
    return fitted(
        drawn, source=geometry_of(wider), target=geometry_of(spec), resizing=RULES["fedavg"].resizing, fresh=fresh
    )


def spec_text(rank: int = RANK) -> str:
    facts = {
        "method": "lora",
        "peft_config": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 4,
            "target_modules": ["layer"],
        },
        "task": "causal-lm",
        "labels": [],
        "init_seed": 5,
    }
    return json.dumps(facts if rank == RANK else {**facts, "init_rank": RANK})


def rounds_of(buffer: Buffer) -> dict[str, object]:
    """What a federation is made with so that its rounds are buffers like this one."""
    return {"exchange": partial(with_buffer, buffer=buffer), "folds": buffer.size, "speeds": ClientSpeeds.of}


class DictMemory(dict[str, bytes]):
    """A memory that can be lost: `clear()`."""

    def load(self, key: str) -> bytes | None:
        return self.get(key)

    def save(self, key: str, data: bytes) -> None:
        self[key] = data


@dataclass(frozen=True)
class Asked:
    """One task on its way to one client."""

    client: str
    purpose: Purpose
    round: int
    task: bytes


@dataclass
class InProcessChannel:
    """Hands tasks to participants; the hooks let replies be late, wrong or missing."""

    participants: Mapping[int, Participant]
    names: Mapping[int, str]
    asked: list[Asked] = field(default_factory=list)
    order: Callable[[list[int]], list[int]] = list
    before: Callable[[Asked], None] = lambda asked: None
    tamper: Callable[[Asked, bytes], bytes | str] = lambda asked, reply: reply
    silent: Callable[[Asked], bool] = lambda asked: False

    open_ended: bool = False
    clock: Clock = field(default_factory=Clock)
    identities: dict[int, Identity] = field(default_factory=dict)
    node_liveness: Mapping[int, Liveness] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    turned_away: list[tuple[int, str, str]] = field(default_factory=list)

    def nodes(self, at_least: int) -> Sequence[int]:
        return [node for node in self.participants if node not in self.gone]

    def wait(self, timeout_s: float) -> None:
        """No client comes or goes by itself."""

    def identity(self, node: int) -> Identity | None:
        return self.identities.get(node)

    def liveness(self, node: int) -> Liveness:
        return self.node_liveness.get(node, Liveness())

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        self.turned_away.append((node, reason, detail))

    def exchange(self, purpose: Purpose, group: str) -> "InProcessExchange":
        return InProcessExchange(self, purpose, int(round_and_attempt(group)[0]))


@dataclass
class InProcessExchange:
    """Clients work when they are heard; one that never answers is heard last, and only by those who wait for ever."""

    channel: InProcessChannel
    purpose: Purpose
    round: int
    waiting: dict[int, bytes] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        self.waiting[node] = b"".join(task)
        self.rounds[node] = int(round_and_attempt(group)[0]) if group else self.round

    def withdraw(self, node: int, reason: str) -> None:
        del self.waiting[node]

    def receive(self, timeout_s: float | None) -> tuple[int, bytes | NoAnswer] | None:
        for node in self.channel.order(list(self.waiting)):
            asked = Asked(self.channel.names[node], self.purpose, self.rounds[node], self.waiting[node])
            if self.channel.silent(asked):
                continue
            del self.waiting[node]
            self.channel.asked.append(asked)
            self.channel.before(asked)
            answer = self.channel.tamper(asked, self.channel.participants[node].answer(asked.task))
            return node, NoAnswer(answer) if isinstance(answer, str) else answer
        return None


class Federation:
    """Server and clients of one run, to be started, stopped and started again."""

    def __init__(
        self,
        path: Path,
        models: Mapping[str, FakeModel],
        *,
        bits: str,
        rule: str = "fedavg",
        optimizer: str = "none",
        ranks: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
        privacy: ClientPrivacy | None = None,
        masked: bool = False,
        exchange: Callable[[Way], Way] = lambda way: way,
        **plan: int,
    ) -> None:
        self.rule = RULES[rule]
        self.optimizer = optimizer_for(
            optimizer if optimizer in ("none", "line_search") else f"{optimizer}:momentum=0.5"
        )
        self.client_ranks = dict(ranks or {})
        self.exchange = exchange
        self.privacy = privacy
        blind = {"norm_bound": NormBound(NormPolicy.OFF), "weighting": Weighting.EQUAL} if privacy or masked else {}
        cohort = plan.get("cohort_size", len(models))
        self.masked = None
        if masked:
            self.privacy = privacy and replace(privacy, clients=cohort, guaranteed=least_survivors(cohort))
            self.masked = MaskedRounds(cohort, 0.2, privacy=self.privacy)
        if self.masked and privacy:
            noise = {"client_noise": privacy.noise_multiplier, "client_clip": privacy.clip_norm or 0.0}
            settings = {**noise, "client_cohort": cohort, **(settings or {})}
        self.keys = {name: NodeKey.from_seed(name.encode().ljust(32)[:32]) for name in models}
        if (settings or {}).get("record_delta"):
            blind = {"weighting": Weighting.EQUAL}
        own_settings = {"learning_rate": 0.1, "batch_size": 1, "secure_aggregation": masked, **(settings or {})}
        settings = Settings(
            local_steps=2,
            gradient_accumulation_steps=1,
            seq_len=8,
            weight_decay=0.0,
            max_grad_norm=1.0,
            held_out_fraction=0.1,
            max_held_out_sequences=4,
            seed=SEED,
            bits=bits,
            **own_settings,
        )
        self.models = models
        self.run_id = b"r" * 16
        self.secrets = {name: ClientSecret.simulated(SEED, name) for name in models}
        self.plan = RunPlan(
            **{"rounds": 2, "clients": len(models), "cohort_size": len(models), "eval_every": 1, **blind, **plan},
            seed=SEED,
            settings=settings,
        )
        adapters: list[RankedAdapter] = []
        for rank in sorted({RANK, *self.client_ranks.values()}, reverse=True):
            spec, initial = FakeModel(0, 1).prepare(spec_text(rank))
            adapters.append(RankedAdapter(rank, spec, geometry_of(spec), initial))
        self.ranks = Ranks(tuple(adapters), resizing=self.rule.resizing)
        self.spec, self.initial = self.ranks.master.spec, self.ranks.master.initial
        self.path = path
        self.memories = {name: DictMemory() for name in models}
        self.published: list[RunState] = []
        self.channel = self._connect()

    def _connect(self) -> InProcessChannel:
        participants = [
            Participant(
                name,
                model,
                self.memories[name],
                max_rank=self.client_ranks.get(name, 0),
                way=self.client_way(name),
            )
            for name, model in self.models.items()
        ]
        return InProcessChannel(dict(enumerate(participants, 100)), dict(enumerate(self.models, 100)))

    def client_way(self, name: str, **changes: object) -> ClientPipeline:
        """How a client says what it says; `changes` are those of its `ClientContext`."""
        identity = NodeIdentity(self.keys[name].public_bytes, self.keys[name].sign, self.vouch)
        own = {"identity": lambda: identity, "secret": lambda: self.secrets[name], **changes}
        speaker, settings = ClientContext(name, self.memories[name], **own), self.plan.settings
        way, of_records = ClientPipeline(PlainSender(name, speaker.sign)), settings.records_are_private
        way = paying(way, speaker, self.privacy, of_records=of_records, is_noised=settings.is_noised)
        return replace(way, sender=UnderMasks(speaker, self.masked), is_open=False) if self.masked else way

    def node(self, client: str) -> int:
        return next(node for node, name in self.channel.names.items() if name == client)

    def sign(self, signers: Mapping[str, NodeKey | None]) -> None:
        """Let the driver know each client's key, and each client sign with this one."""
        for node, name in self.channel.names.items():
            sender = PlainSender(name, (key := signers[name]) and key.sign)
            own = {"model": self.models[name], "memory": self.memories[name], "way": ClientPipeline(sender)}
            self.channel.participants[node] = Participant(name, **own)
            self.channel.identities[node] = Identity(name, self.keys[name].public_bytes)

    def vouch(self, client: str, identity: bytes, *_proof: bytes) -> bool:
        return client in self.keys and self.keys[client].public_bytes == identity

    @property
    def events(self) -> list[dict]:
        return read_lines(self.path / "ledger.jsonl")

    def of_kind(self, *kinds: str) -> list[dict]:
        return [event for event in self.events if event["event"] in kinds]

    def run(self, *, watch: Callable[[str], None] = lambda where: None) -> RunState:
        """Start the run, or go on with it from what is on disk; `watch` is called between any two steps."""
        if RunDirectory(self.path).has_started:
            directory = RunDirectory.find(self.path)
            state = load_checkpoint(directory.checkpoints, self.ranks)
            first = Resumed(round=state.round)
        else:
            directory = RunDirectory.create(self.path, config_toml="")
            state = initial_state(self.run_id, self.ranks)
            save_checkpoint(directory.checkpoints, state)
            first = started(state.run_id.hex())
        unit = "client" if self.privacy else "record" if self.plan.settings.records_are_private else "off"
        screen = composition.screen_of(SimpleNamespace(dp=unit, secure_aggregation=bool(self.masked)), 1000)
        ledger = Ledger(directory.ledger, screen=screen)
        try:
            ledger.append(first)
            if unit == "client" and isinstance(first, RunStarted):
                key = None if self.masked else RunKey.create(directory.noise_key)
                ledger.append(private_sums.started(self.privacy, key, size=1))
            if unit == "record" and isinstance(first, RunStarted):
                ledger.append(records_started(self.plan.settings, clients=len(self.models), size=LAYOUT.size))
            return self._coordinator(directory, ledger, watch).run(state)
        finally:
            ledger.close()

    def _coordinator(self, directory: RunDirectory, ledger: Ledger, watch: Callable[[str], None]) -> Coordinator:
        for target, name in (
            (ledger, "append"),
            (ledger, "note"),
            (directory, "store_update"),
            (directory, "clear_updates"),
        ):
            setattr(target, name, _between(getattr(target, name), watch))
        way = self.way(Host(directory, read_events(directory.ledger), lambda event: ledger.append(event)))
        return Coordinator(
            channel=self.channel,
            directory=directory,
            ledger=ledger,
            plan=self.plan,
            make_aggregator=partial(self.aggregator, way, directory=directory),
            publish=_between(self.published.append, watch),
            way=way,
        )

    def way(self, host: Host) -> Way:
        """How its updates are gathered and folded, and what its rounds cost."""
        way, settings = Way(), self.plan.settings
        if self.privacy:
            way = with_private(way, self.privacy, host)
        if settings.records_are_private:
            way = replace(way, costs=RecordCosts(settings, recorded=spent_in(host.events), masked=bool(self.masked)))
        if self.masked:
            way = with_masks(way, self.masked, self.vouch)
        return self.exchange(way)

    def recomputed(self) -> int:
        """How many rounds its ledger and stored updates give again."""
        directory = RunDirectory.find(self.path)
        recorded = read_events(directory.ledger)
        way = self.way(Host(directory, recorded, lambda event: None, recomputes=True))
        return replay(
            recorded,
            initial_state(self.run_id, self.ranks),
            partial(self.aggregator, way),
            arriving=way.arriving,
            take_back=self.plan.watch.take_back,
        )

    def aggregator(
        self, way: Way, refused: Refused = lambda *_: None, *, directory: RunDirectory | None = None
    ) -> Aggregator:
        """What folds its stored updates."""
        spool = Spool(
            directory=directory or RunDirectory(self.path),
            refused=refused,
            ranks=self.ranks,
            rule=self.rule,
            base_fingerprint=FINGERPRINT,
            plan=self.plan,
        )
        return Aggregator(spool, way.folding(spool), self.optimizer)

    def copy(self, path: Path) -> "Federation":
        """The same federation over another run directory, with clients that remember the same."""
        twin = copy(self)
        twin.path, twin.published = path, list(self.published)
        twin.memories = {name: DictMemory(kept) for name, kept in self.memories.items()}
        twin.channel = twin._connect()
        return twin

    def train_alone(self, client: str, flat: np.ndarray, round_number: int) -> np.ndarray:
        """What `client` makes of these values in this round."""
        return self.models[client].trained(
            flat, client_seed(SEED, round_number, client), replace(self.plan.settings, round=round_number)
        )


class OneClient:
    """Bob, and what its server asks of it; each task goes to a node that was just started."""

    def __init__(self, federation: Federation) -> None:
        self.ranks, self.spec = federation.ranks, federation.spec
        self.model, self.memory = federation.models["bob"], federation.memories["bob"]
        self.tasks = TaskSettings(federation.plan, RULES["fedavg"], new_factors=False)
        self.start = initial_state(federation.run_id, federation.ranks)
        self.terms: AgreedTerms | None = None

    def answer(self, task: "Task | bytes", **own: object) -> bytes:
        self.node = Participant("bob", self.model, self.memory, **{"terms": self.terms, **own})
        return self.node.answer(task if isinstance(task, bytes) else b"".join(encode_task(task)))

    def ask(self, task: "Task | bytes", **own: object) -> Reply:
        return decode_reply(self.answer(task, **own), max_bytes=1 << 20)

    def broadcast(self, state: RunState, held: bytes = b"") -> bytes:
        return Broadcasts(state, self.ranks, FINGERPRINT).leading_from(held, 0)

    def describe(self, **changes: object) -> Reply:
        return self.ask(DescribeTask(replace(self.tasks.to_describe(), **changes), self.spec.text))

    def train(self, number: int = 1, state: RunState | None = None, **changes: object) -> Reply:
        settings = replace(self.tasks.to_train(number, "bob"), **changes)
        return self.ask(TrainTask(settings, self.broadcast(state or self.after(number - 1))))

    def evaluate(self, number: int = 1, state: RunState | None = None, **changes: object) -> Reply:
        settings = replace(self.tasks.to_evaluate(number), **changes)
        return self.ask(EvaluateTask(settings, self.broadcast(state or self.after(number))))

    def after(self, number: int, amount: float = 0.25) -> RunState:
        """The state after so many rounds, each of which adds this much to all parameters."""
        state, layout = self.start, self.spec.layout
        for _ in range(number):
            moved = advance(state, AdapterState(layout, np.full(layout.size, amount, np.float32)))
            state = follow(moved, self.ranks, FINGERPRINT, codec=codec_for("fp32"), new_factors=True)[0]
        return state


@dataclass(eq=False)
class Snapshots:
    """Copies of a federation, each as a kill at that moment would leave it, with a word on when that was.

    Moments that leave the same, on disk and in what clients remember, are one.
    """

    federation: Federation
    folder: Path
    killed: list[tuple[str, Federation]] = field(default_factory=list)
    _left: object = None

    def take(self, where: str) -> None:
        files = {path: path.read_bytes() for path in self.federation.path.rglob("*") if path.is_file()}
        before, self._left = self._left, (files, {name: {**kept} for name, kept in self.federation.memories.items()})
        if self._left == before:
            return
        path = self.folder / f"killed-{len(self.killed):03}"
        shutil.copytree(self.federation.path, path)
        self.killed.append((f"{len(self.killed)}: {where}", self.federation.copy(path)))

    def run(self, doing: Callable[[Asked], str] = lambda asked: asked.purpose.value) -> RunState:
        """Run to the end, with a copy before each task, around each checkpoint and between any two steps."""

        def saved(*args: object) -> None:
            self.take("unsaved")
            save_checkpoint(*args)
            self.take("saved")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coordinator, "save_checkpoint", saved)
            self.federation.channel.before = lambda asked: self.take(f"before {asked.client}: {doing(asked)}")
            return self.federation.run(watch=self.take)


def _between(step: Callable, watch: Callable[[str], None]) -> Callable:
    def watched(*args: object, **kwargs: object) -> object:
        result = step(*args, **kwargs)
        watch(step.__name__)
        return result

    return watched


MODELS = {"bob": FakeModel(2.0, 7), "alice": FakeModel(-1.0, 3, held_out_tokens=10), "mallory": FakeModel(5.0, 2)}


@pytest.fixture
def federate(tmp_path: Path) -> Callable[..., Federation]:
    """Make federations, each with a run directory of its own."""

    def make(models: Mapping[str, FakeModel] = MODELS, *, bits: str = "fp32", **plan: object) -> Federation:
        path = tmp_path / f"run-{len(list(tmp_path.iterdir()))}-{os.urandom(4).hex()}"
        return Federation(path, models, bits=bits, **plan)

    return make


@pytest.fixture
def snapshots_of(tmp_path: Path) -> Callable[[Federation], Snapshots]:
    """Copies of a federation on its way, below the test's own directory."""
    return lambda federation: Snapshots(federation, tmp_path)


@pytest.fixture
def bob(federate) -> OneClient:
    return OneClient(federate(rounds=3))


@pytest.fixture
def fake_model() -> type[FakeModel]:
    return FakeModel


@pytest.fixture
def spec_and_state() -> tuple[AdapterSpec, AdapterState]:
    """A spec and its initial adapter."""
    return FakeModel(0, 1).prepare(spec_text())


@pytest.fixture
def ranks(spec_and_state) -> Ranks:
    """The adapters of a federation of one rank."""
    spec, initial = spec_and_state
    return Ranks((RankedAdapter(RANK, spec, geometry_of(spec), initial),))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability against power cuts is nothing that a test could see."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def everyone_holds() -> Callable[[Federation, RunState], None]:
    """Check that every client holds what the server means it to hold."""

    def check(federation: Federation, state: RunState) -> None:
        for name, memory in federation.memories.items():
            rank = federation.client_ranks.get(name, RANK)
            track = next(
                track
                for track, adapter in zip(state.tracks, federation.ranks.adapters, strict=True)
                if adapter.rank == rank
            )
            held = AdapterState(track.shadow.layout, np.frombuffer(memory["adapter"], np.float32))
            assert held.digest() == track.shadow.digest(), name

    return check


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 20 s at each look, so that no test waits."""
    now = [0.0]

    def monotonic():
        now[0] += 20.0
        return now[0]

    monkeypatch.setattr(time, "monotonic", monotonic)
    return now


@pytest.fixture
def stalling(federate, clock):
    """A federation of three that come and go, of whom one never answers what is asked of it."""

    def make(purpose, liveness, **plan):
        federation = federate(quorum=2, **plan)
        channel = federation.channel
        channel.open_ended = True
        channel.silent = lambda asked: (asked.client, asked.purpose) == ("mallory", purpose)
        channel.node_liveness = {federation.node("mallory"): liveness}
        return federation

    return make
