"""Where the virtual clock of a run stands: after what is on disk of it, and (`predicted_s`) before it has begun.

The prediction runs the same clock over messages of the planned sizes, with no training behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from plait.rounds.asking import Asking
from plait.rounds.buffer import Buffer
from plait.rounds.channel import Data, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.checkpoint import finished_in_checkpoint
from plait.rounds.clock import Span, WallClock
from plait.rounds.events import Fleet
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import asking_order, choose_cohort, sample_cohort
from plait.rounds.run_view import RunView
from plait.rounds.step_budget import Pace, budget
from plait.simulation.virtual_clock import VirtualChannel, VirtualClock

PASSES_OF_TRAINING = 3.0
"""Forward passes that training on a token costs; evaluating costs one."""

_MESSAGE_BYTES = 700
"""An update or task besides its payload, and an evaluation's answer: about so much."""


def clock_after(directory: RunDirectory, fleet: Fleet, nodes: Mapping[str, int]) -> VirtualClock:
    """The clock of a run as its finished rounds and evaluations left it.

    Args:
        directory: of the run, which need not have begun.
        fleet: its devices.
        nodes: the clients' numbers by name.
    """
    if not directory.has_started:
        return VirtualClock(fleet)
    view = RunView.of(read_events(directory.ledger))
    finished, at_work = finished_in_checkpoint(directory.checkpoints)
    number = finished.round if finished else 0
    evaluated = view.evaluations.get(number)
    now_s = max((each.virtual_s or 0.0 for each in (finished, evaluated) if each), default=0.0)
    spent = [
        Span(
            nodes[each.client], each.device, each.purpose, each.began_s, each.received_s, each.worked_s, each.ended_s,
            each.outcome, each.energy_j,
        )
        for each in view.spans
        if each.round <= number and (each.purpose == Purpose.TRAIN.value or each.round < number or evaluated)
    ]  # fmt: skip
    going_on = {nodes[client]: work.span for client, work in at_work.items() if work.span}
    return VirtualClock(fleet, now_s=now_s, spent=spent, going_on=going_on)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a planned run.

    Attributes:
        payload_bytes: of an update.
        broadcast_bytes: of a round's new adapter.
        adapter_bytes: of the whole adapter.
        example_tokens: of a training example, with padding.
    """

    payload_bytes: int
    broadcast_bytes: int
    adapter_bytes: int
    example_tokens: int


def predicted_s(fleet: Fleet, plan: RunPlan, sizes: Sizes, *, evaluates: bool) -> float:
    """The virtual time of a run that has not begun.

    Args:
        fleet: its devices.
        plan: its rounds. Every client is taken to have as many held-out sequences as are evaluated at most.
        sizes: of its messages and examples.
        evaluates: whether the run evaluates.

    Raises:
        ConfigError: too few devices are ever on at the same time.
    """
    planned = _Planned(fleet, plan, sizes)
    everyone = _names(range(plan.clients))
    count = plan.eval_clients or plan.clients
    evaluators = sample_cohort(everyone, count, seed=plan.seed, round_number=0)
    if evaluates:
        planned.ask(Purpose.EVALUATE, 0, evaluators, (), len(evaluators))
    if plan.buffer:
        planned.train_asynchronously(plan.buffer)
        if evaluates:
            planned.ask(Purpose.EVALUATE, plan.rounds, evaluators, (), len(evaluators))
        return planned.clock.now()
    for number in range(1, plan.rounds + 1):
        planned.train(number)
        if evaluates and (number == plan.rounds or number % plan.eval_every == 0):
            planned.ask(Purpose.EVALUATE, number, evaluators, (), len(evaluators))
    return planned.clock.now()


class _Planned:
    """The round loop with messages of the planned sizes and no training behind them."""

    def __init__(self, fleet: Fleet, plan: RunPlan, sizes: Sizes) -> None:
        self._sizes = sizes
        replies = {
            Purpose.TRAIN: bytes(sizes.payload_bytes + _MESSAGE_BYTES),
            Purpose.EVALUATE: bytes(_MESSAGE_BYTES),
        }
        self.clock = VirtualClock(fleet)
        self._plan = plan
        self._channel = VirtualChannel(_Imagined(plan.clients, replies), self.clock, self._work_of, seed=plan.seed)
        downlink, codec = plan.downlink, plan.settings.codec
        has_keyframes = downlink.has_keyframes(codec)
        larger = downlink.sent_bits(codec, plan.rounds // 2, None) / codec.bits if has_keyframes else 1.0
        self._step = (bytes(_MESSAGE_BYTES + round(sizes.broadcast_bytes * larger)), b"")
        self._nothing = (bytes(_MESSAGE_BYTES), b"")
        self._whole = self._step if has_keyframes else (bytes(_MESSAGE_BYTES + sizes.adapter_bytes), b"")
        self._up_to_date = set(range(plan.clients))
        self._asked = (Purpose.TRAIN, 0)
        self._paces: dict[str, Pace] = {}
        self._budget = budget(plan.settings.local_steps, (), self._paces)
        self._steps: dict[str, int] = {}

    def train(self, number: int) -> None:
        plan = self._plan
        for _ in range(plan.attempts):
            on = self.clock.available(range(plan.clients), plan.quorum)
            cohort, reserve = choose_cohort(
                _names(on), plan.cohort_size, over_selection=plan.over_selection, seed=plan.seed, round_number=number
            )
            if plan.by_speed:
                self._budget = budget(plan.settings.local_steps, cohort, dict(self._paces))
            if self.ask(Purpose.TRAIN, number, cohort, reserve, plan.cohort_size) >= plan.quorum:
                break
        self._up_to_date.clear()

    def train_asynchronously(self, buffer: Buffer) -> None:
        """As `plait.rounds.asynchronous` does it; evaluations beside training take no time."""
        plan, clock = self._plan, self.clock
        working: dict[str, int] = {}
        held: dict[str, int] = dict.fromkeys(_names(range(plan.clients)), 0)
        self._asked = Purpose.TRAIN, 1
        with self._asking(Purpose.TRAIN, 1) as asking:
            for version in range(plan.rounds):
                asked, came, attempts = set[str](), set[str](), 1
                for name in [name for name, began in working.items() if version - began > buffer.max_staleness]:
                    del working[name]
                    asking.withdraw(name, "stale")
                while len(came) < buffer.size:
                    free = [int(name) for name in held if name not in {*working, *came, *asked}]
                    room = plan.cohort_size - len(working)
                    here = clock.available(free, 0 if working else 1) if free and room else ()
                    names = asking_order(
                        _names(here), plan.cohort_size, known=plan.clients, seed=plan.seed, round_number=version + 1
                    )
                    for name in names[:room]:
                        missed = version - held[name]
                        task = self._nothing if not missed else self._step if missed == 1 else self._whole
                        self._send(asking, name, task, version + 1)
                        working[name] = held[name] = version
                        asked.add(name)
                    heard = asking.next(None)
                    if heard is not None:
                        del working[heard.client]
                        if not isinstance(heard.data, NoAnswer):
                            came.add(heard.client)
                    elif len(came) >= plan.quorum or attempts == plan.attempts:
                        break
                    else:
                        attempts += 1
                        asked.clear()
                self._note_paces()
        self._up_to_date.clear()

    def ask(self, purpose: Purpose, number: int, names: Sequence[str], reserve: Sequence[str], wanted: int) -> int:
        """The number of answers, once so many are in or nobody is left."""
        limit_s = self._plan.deadline_s
        deadline = None if limit_s is None else self.clock.now() + limit_s
        self._asked = purpose, number
        rest, given = iter(reserve), 0
        with self._asking(purpose, number) as asking:
            for name in names:
                self._send(asking, name, self._task(int(name)), number)
            while given < wanted and (heard := asking.next(deadline)):
                self._up_to_date.add(int(heard.client))
                if not isinstance(heard.data, NoAnswer):
                    given += 1
                elif given + len(asking.waiting) < wanted and (other := next(rest, None)) is not None:
                    self._send(asking, other, self._task(int(other)), number)
        if purpose is Purpose.TRAIN:
            self._note_paces()
        else:
            self.clock.spans()
        return given

    def _asking(self, purpose: Purpose, number: int) -> Asking:
        return Asking(self._channel, purpose=purpose, group=str(number), patience=self._plan.patience)

    def _send(self, asking: Asking, name: str, task: TaskParts, number: int) -> None:
        if asking.purpose is Purpose.TRAIN:
            self._steps[name] = self._budget.steps_of(name) if self._plan.by_speed else self._plan.settings.local_steps
        pace = self._paces.get(name) if asking.purpose is Purpose.TRAIN and self._plan.has_paces else None
        asking.anew(name, expected_s=pace and pace.task_s(self._steps[name]))
        asking.send(name, int(name), task, group=str(number))

    def _note_paces(self) -> None:
        """As the ledger of a round tells them."""
        for span in self.clock.spans():
            train_s, name = span.worked_s - span.received_s, _name(span.node)
            if span.purpose == Purpose.TRAIN.value and span.outcome == "answered" and train_s:
                self._paces[name] = Pace(self._steps[name] / train_s, span.ended_s - span.began_s - train_s)

    def _task(self, node: int) -> TaskParts:
        return self._nothing if node in self._up_to_date else self._step

    def _work_of(self, node: int, task: TaskParts) -> float:
        del task
        (purpose, number), settings = self._asked, self._plan.settings
        if purpose is Purpose.TRAIN:
            examples = self._steps[_name(node)] * settings.batch_size * settings.gradient_accumulation_steps
            return float(examples * self._sizes.example_tokens)
        times = 2 if number == self._plan.rounds and settings.own_share else 1
        return times * settings.max_held_out_sequences * self._sizes.example_tokens / PASSES_OF_TRAINING


def _names(nodes: Sequence[int]) -> list[str]:
    return [_name(node) for node in nodes]


def _name(node: int) -> str:
    """A name that sorts as the number does."""
    return f"{node:09d}"


@dataclass(frozen=True)
class _Imagined:
    """A channel whose clients answer with as many bytes as real ones would."""

    count: int
    replies: Mapping[Purpose, bytes]
    open_ended: bool = False
    clock: WallClock = field(default_factory=WallClock)

    def nodes(self, at_least: int) -> Sequence[int]:
        del at_least
        return range(self.count)

    def wait(self, timeout_s: float) -> None:
        del timeout_s

    def identity(self, node: int) -> None:
        del node

    def liveness(self, node: int) -> Liveness:
        del node
        return Liveness()

    def exchange(self, purpose: Purpose, group: str) -> _ImaginedExchange:
        del group
        return _ImaginedExchange(self.replies[purpose])


class _ImaginedExchange:
    """One task at a time, which is answered at once."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._node: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._node = None

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        del task, group
        self._node = node

    def withdraw(self, node: int, reason: str) -> None:
        del node, reason
        self._node = None

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        del timeout_s
        node, self._node = self._node, None
        return None if node is None else (node, self._reply)
