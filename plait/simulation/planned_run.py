"""A run that has not begun, as far as sizes tell it: its bytes, and its time by the clock of the channel.

The round loop goes over messages of the planned sizes, with no training behind them. Cohorts, evaluators and what each
client is sent follow from the functions that the run itself asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

import numpy as np

from plait.config import RunConfig
from plait.places import at
from plait.rounds.asking import Asking
from plait.rounds.channel import Channel, Data, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.clock import Clock, WallClock
from plait.rounds.message_sizes import MessageSizes
from plait.rounds.paces import Pace
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import choose_cohort


@dataclass(frozen=True)
class PlannedRun:
    """What a run is to take.

    Attributes:
        virtual_s: by the virtual clock; None without one.
    """

    virtual_s: float | None
    uplink_bytes: int
    downlink_bytes: int


def plan_run(
    plan: RunPlan,
    sizes: MessageSizes,
    *,
    evaluates: bool,
    example_tokens: int = 0,
    base_parameters: int = 0,
    change: Callable[[Planned], None] = lambda _: None,
) -> PlannedRun:
    """Go through a run that has not begun.

    Args:
        plan: its rounds. Every client is taken to have as many held-out sequences as are evaluated at most.

    Raises:
        ConfigError: too few devices are ever on at the same time.
    """
    planned = Planned(plan, sizes, evaluates=evaluates, example_tokens=example_tokens, base_parameters=base_parameters)
    change(planned)
    planned.evaluate(0)
    planned.going()
    virtual_s = planned.clock.now() if planned.clock.is_virtual else None
    return PlannedRun(virtual_s, planned.uplink_bytes, planned.downlink_bytes)


def change_of(config: RunConfig) -> Callable[[Planned], None]:
    """What the features of a run change in how it goes."""

    def change(planned: Planned) -> None:
        for feature in config.wanted:
            if feature.planned:
                at(feature.planned)(planned, config)

    return change


class Planned:
    """The round loop with messages of the planned sizes and no training behind them.

    Attributes:
        channel: to clients that are all alike and answer in the order they were asked.
        going: goes through all rounds; by default each waits for its cohort.
        held: round of the shadow that each holds.
        asked: what clients are asked for: the purpose and the round.
        steps: of the clients' training tasks, by their numbers.
        example_tokens: of a training example, with padding.
    """

    def __init__(
        self, plan: RunPlan, sizes: MessageSizes, *, evaluates: bool, example_tokens: int, base_parameters: int
    ) -> None:
        self.sizes = sizes
        self._evaluates = evaluates
        self.example_tokens = example_tokens
        self.base_parameters = base_parameters
        replies = {Purpose.TRAIN: _sized(sizes.update_up), Purpose.EVALUATE: _sized(sizes.evaluation_up)}
        self.plan = plan
        self.channel: Channel = _Imagined(plan.clients, replies)
        self.everyone = names_of(range(plan.clients))
        self._downlink = plan.downlink
        self.held: dict[str, int | None] = dict.fromkeys(self.everyone, 0 if plan.starts_anew else None)
        self.going = self._wait_for_cohorts
        self.uplink_bytes = plan.clients * sizes.describe_up
        self.downlink_bytes = plan.clients * sizes.describe_down
        self.asked = (Purpose.TRAIN, 0)
        self._paces: dict[str, Pace] = {}
        self._steps_of: Callable[[str], int] = lambda _: plan.settings.local_steps
        self.steps: dict[int, int] = {}

    @property
    def clock(self) -> Clock:
        """That the run goes by."""
        return self.channel.clock

    def _wait_for_cohorts(self) -> None:
        for number in range(1, self.plan.rounds + 1):
            self._train(number)
            self.evaluate(number)

    def _train(self, number: int) -> None:
        plan = self.plan
        for _ in range(plan.attempts):
            on = self.clock.available(range(plan.clients), plan.quorum)
            cohort, reserve = choose_cohort(
                names_of(on), plan.cohort_size, over_selection=plan.over_selection, seed=plan.seed, round_number=number
            )
            if plan.stepping:
                self._steps_of = plan.stepping.steps(plan.settings.local_steps, cohort, dict(self._paces))
            if self._ask(Purpose.TRAIN, number, cohort, reserve, plan.cohort_size) >= plan.quorum:
                break

    def evaluate(self, number: int) -> None:
        """Let clients evaluate the adapter after a round, where that is due."""
        if evaluators := self.evaluators(number):
            self._ask(Purpose.EVALUATE, number, evaluators, (), len(evaluators))

    def evaluators(self, number: int) -> Sequence[str]:
        """Those that evaluate the adapter after a round."""
        is_due = self._evaluates and self.plan.is_evaluated(number)
        return self.plan.evaluators(self.everyone) if is_due else ()

    def _ask(self, purpose: Purpose, number: int, names: Sequence[str], reserve: Sequence[str], wanted: int) -> int:
        """The number of answers, once enough are in or no client is left."""
        limit_s = self.plan.deadline_s
        deadline = None if limit_s is None else self.clock.now() + limit_s
        self.asked = purpose, number
        rest, given = iter(reserve), 0
        with self.asking(purpose, number) as asking:
            for name in names:
                self.send(asking, name, number)
            while given < wanted and (heard := asking.next(deadline)):
                if not isinstance(heard.data, NoAnswer):
                    given += 1
                    self.uplink_bytes += len(heard.data)
                    self.held[heard.client] = _shadow(purpose, number)
                elif given + len(asking.waiting) < wanted and (other := next(rest, None)) is not None:
                    self.send(asking, other, number)
        self.note_ended(number)
        return given

    def asking(self, purpose: Purpose, number: int) -> Asking:
        """The tasks of a round."""
        return Asking(self.channel, purpose=purpose, group=str(number), patience=self.plan.patience)

    def send(self, asking: Asking, name: str, number: int) -> None:
        """Give a client its task of a round."""
        task = self.task(asking.purpose, name, number)
        self.downlink_bytes += sum(map(len, task))
        node = int(name)
        if asking.purpose is Purpose.TRAIN:
            self.steps[node] = self._steps_of(name)
        pace = self._paces.get(name) if asking.purpose is Purpose.TRAIN and self.plan.has_paces else None
        asking.anew(name, expected_s=pace and pace.task_s(self.steps[node]))
        asking.send(name, node, task, group=str(number))

    def note_ended(self, number: int) -> None:
        """Note how fast clients were, as the ledger of a round tells them."""
        for event in self.clock.ended(number, dict(enumerate(self.everyone))):
            if event.pace and event.pace[1]:
                name, train_s, took_s = event.pace
                self._paces[name] = Pace(self.steps[int(name)] / train_s, took_s - train_s)

    def task(self, purpose: Purpose, name: str, number: int) -> TaskParts:
        """Something as long as a client's task."""
        sizes, held = self.sizes, self.held[name]
        shadow = _shadow(purpose, number)
        bits = self._downlink.sent_bits(sizes.codec, shadow, None if held is None else shadow - held)
        beside = sizes.train_down if purpose is Purpose.TRAIN else sizes.evaluate_down
        return _sized(beside + sizes.adapter_down(bits, with_spec=held is None)), b""


def _shadow(purpose: Purpose, number: int) -> int:
    """The round of the adapter that a task of round `number` is about."""
    return number - 1 if purpose is Purpose.TRAIN else number


def _sized(size: int) -> bytes:
    """Something of this length that takes no memory and is never read."""
    return cast("bytes", np.broadcast_to(np.zeros(1, np.uint8), (size,)).data)


def names_of(nodes: Sequence[int]) -> list[str]:
    """The names of planned clients, by number."""
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

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        del node, reason, detail

    def exchange(self, purpose: Purpose, group: str) -> _ImaginedExchange:
        del group
        return _ImaginedExchange(self.replies[purpose])


class _ImaginedExchange:
    """Tasks answered at once, in the order sent."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._nodes: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._nodes.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        del task, group
        self._nodes.append(node)

    def withdraw(self, node: int, reason: str) -> None:
        del reason
        self._nodes.remove(node)

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        del timeout_s
        return (self._nodes.pop(0), self._reply) if self._nodes else None
