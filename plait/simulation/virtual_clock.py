"""Real work under a virtual clock: a `Channel` around another, whose devices take as long as those of a fleet would.

A task takes its download, its work at the device's speed, and the upload of the answer. Answers come in the order of
their virtual ends. A device works for real only when its answer is the next one, or before it evaluates, so those that
are released before have not trained. One that fails during training sends nothing; the server notices after
`Fleet.notice_s`. The server's own network and work take no time, nor do descriptions and evaluations of devices that
are off. A run that goes on begins where its ledger left the clock.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import JsonValue

from plait.errors import ConfigError
from plait.ledger.fleet import DeviceWorked, Fleet, tasks_of
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.rounds.channel import (
    IN_PROGRESS,
    Channel,
    Clock,
    Data,
    Liveness,
    NoAnswer,
    Purpose,
    StopRequest,
    TaskParts,
)
from plait.rounds.client_pipeline import share_measured
from plait.rounds.fleet import device_of, load_fleet
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import finished_in_checkpoint
from plait.settings.choice import hours_of
from plait.wire.messages import DescribeTask, EvaluateTask, TrainTask, decode_task

if TYPE_CHECKING:
    from plait.simulation.simulation import Simulation


@dataclass(frozen=True)
class Span:
    """One task of one simulated device, as `DeviceWorked` has it; `node` is the driver's number of the device."""

    node: int
    device: str
    purpose: str
    began_s: float
    received_s: float
    worked_s: float
    ended_s: float
    outcome: str
    energy_j: float | None = None

    def worked(self, number: int, client: str) -> DeviceWorked:
        """The task as the ledger has it, of a client in round `number`."""
        return DeviceWorked(round=number, client=client, **{k: v for k, v in asdict(self).items() if k != "node"})


PASSES_OF_TRAINING = 3.0
"""Forward passes that training on a token costs; evaluating costs one."""
_DAY_S = 86_400.0
_HOUR_S = 3_600.0
_DAYS_SEARCHED = 8
_DIGITS = 6

Work = Callable[[int, TaskParts], float]
"""The work of a task, in tokens of training, from its node and its bytes."""


@dataclass(frozen=True)
class Doing:
    """A task at a device, which fails at `span.worked_s` or not; `task` is None once `answer` is there.

    Before that `span.ended_s` is not known.
    """

    span: Span
    fails: bool
    task: TaskParts | None
    answer: Data | NoAnswer = b""


class VirtualClock(Clock):
    """The time of a fleet, and what its devices have spent today.

    `spent` are the spans of an earlier part of the run, and `going_on` the training tasks in progress then, by
    node; each goes on when it is sent again.
    """

    is_virtual = True

    def __init__(
        self,
        fleet: Fleet,
        *,
        now_s: float = 0.0,
        spent: Sequence[Span] = (),
        going_on: Mapping[int, Span] | None = None,
    ) -> None:
        self.fleet = fleet
        self.going_on = dict(going_on or {})
        self.training: VirtualExchange | None = None
        self._now_s = now_s
        self._spans: list[Span] = []
        self._spent_j: defaultdict[tuple[int, int], float] = defaultdict(float)
        for span in spent:
            self._charge(span)

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._now_s

    def go_to(self, moment_s: float) -> None:
        """Let time pass up to a moment; never back."""
        self._now_s = max(self._now_s, moment_s)

    def undo(self, moment_s: float) -> None:
        """Stand where the clock stood before an answer that does not count."""
        self._now_s = moment_s

    def available(self, nodes: Sequence[int], at_least: int) -> Sequence[int]:
        """Those of the nodes that are on now; time passes until there are enough, or ConfigError: there never are."""
        for _ in range(24 * _DAYS_SEARCHED):
            on = [node for node in nodes if self.is_on(node)]
            if len(on) >= min(at_least, len(nodes)):
                return on
            # Devices come on at whole hours, and batteries are full again at midnight.
            self._now_s = (math.floor(self._now_s / _HOUR_S) + 1) * _HOUR_S
        raise ConfigError(
            f"fewer than {at_least} devices are ever on at the same time, too few for the run's quorum: change their "
            f"hours, or lower --quorum"
        )

    def is_on(self, node: int) -> bool:
        """Whether a device is available now."""
        device = device_of(self.fleet, node)
        spent_j = self._spent_j.get((node, self._day(self._now_s)), 0.0)
        has_power = device.battery_wh is None or spent_j < device.battery_wh * _HOUR_S
        return has_power and int(self._now_s % _DAY_S // _HOUR_S) in hours_of(device.hours)

    def end(self, span: Span) -> None:
        """Record what a device did."""
        self._spans.append(span)

    def repeated(self, span: Span) -> None:
        """Forget what was recorded: the device does it again."""
        self._spans.remove(span)

    def ended(self, number: int, clients: Mapping[int, str]) -> Sequence[DeviceWorked]:
        """What devices did since this was last asked, as the ledger has it."""
        ended, self._spans = self._spans, []
        for span in ended:
            self._charge(span)
        return [span.worked(number, clients[span.node]) for span in ended]

    def in_progress(self) -> Mapping[int, Mapping[str, JsonValue]]:
        """The training tasks in progress."""
        spans = self.training.spans() if self.training else self.going_on
        return {node: asdict(span) for node, span in spans.items()}

    def _charge(self, span: Span) -> None:
        self._spent_j[span.node, self._day(span.began_s)] += span.energy_j or 0.0

    @staticmethod
    def _day(moment_s: float) -> int:
        return int(moment_s // _DAY_S)


class VirtualChannel(Channel):
    """A channel whose tasks take virtual time; `inner` does them, and all its nodes are there from the start.

    With `at_once` the tasks in progress are done at once, as no working device is released.
    """

    def __init__(self, inner: Channel, clock: VirtualClock, work: Work, *, seed: int, at_once: bool = False) -> None:
        self.inner = inner
        self.at_once = at_once
        self.clock = self.virtual_clock = clock
        self.work = work
        self._seed = seed
        self._asked: Counter[tuple[int, str]] = Counter()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All of them, on or off."""
        return self.inner.nodes(at_least)

    def liveness(self, node: int) -> Liveness:
        """A device shows progress until it fails."""
        training = self.virtual_clock.training
        return Liveness(idle_s=training.idle_s(node) if training else 0.0)

    def exchange(self, purpose: Purpose, group: str) -> "VirtualExchange":
        """Begin to send tasks."""
        return VirtualExchange(self, purpose, group)

    def fails_at(self, node: int, group: str) -> float | None:
        """The fraction of its work after which a device fails at its next training task of a round; None: it does not.

        Decided by seed, round, device and how often it was asked in this round.
        """
        self._asked[node, group] += 1
        text = f"{self._seed}/{group}/{node}/{self._asked[node, group]}/dropout".encode()
        digest = hashlib.sha256(text).digest()
        chance, fraction = (int.from_bytes(part, "big") / 2**64 for part in (digest[:8], digest[8:16]))
        return fraction if chance < device_of(self.virtual_clock.fleet, node).dropout else None


class VirtualExchange:
    """A `plait.rounds.channel.Exchange` in virtual time."""

    def __init__(self, channel: VirtualChannel, purpose: Purpose, group: str) -> None:
        self._channel = channel
        self._clock = channel.virtual_clock
        self._purpose = purpose
        self._group = group
        self._doing: dict[int, Doing] = {}
        self._first: dict[int, tuple[str, Doing]] = {}
        self._ended: dict[int, Span] = {}
        self._before: dict[int, float] = {}

    def __enter__(self) -> Self:
        if self._purpose is Purpose.TRAIN:
            self._clock.training = self
        return self

    def __exit__(self, *_: object) -> None:
        for node in [*self._doing]:
            self._release(node)
        if self._purpose is Purpose.TRAIN:
            self._clock.training = None

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Give a device its task; a second one of a round, after a process was killed, takes the first one's time."""
        group = group or self._group
        given, first = self._first.get(node, ("", None))
        if first and given == group and node in self._before and not first.fails:
            self._clock.undo(self._before.pop(node))
            if ended := self._ended.pop(node, None):
                self._clock.repeated(ended)
            self._doing[node] = replace(first, task=task)
            return
        self._doing[node] = self._begin(node, task, group)
        self._first[node] = group, self._doing[node]

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a device's answer."""
        del reason
        self._release(node)

    def spans(self) -> Mapping[int, Span]:
        """The tasks in progress, by node."""
        return {node: doing.span for node, doing in self._doing.items()}

    def idle_s(self, node: int) -> float:
        """How long a device has shown no progress."""
        doing = self._doing.get(node)
        return max(0.0, self._clock.now() - doing.span.worked_s) if doing and doing.fails else 0.0

    def catch_up(self, node: int) -> None:
        """Let a device do what it was asked for before, so that it holds what it was sent."""
        doing = self._doing.get(node)
        if doing and doing.task is not None:
            self._work([node])

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """The next answer by virtual time, or None at the end of the time or if none is outstanding."""
        # Rounded, so that a moment does not depend on from where it was counted.
        limit_s = math.inf if timeout_s is None else round(self._clock.now() + timeout_s, _DIGITS)
        while self._doing:
            # Of those at the same time the first by number, so that the order never depends on this machine.
            node = min(self._doing, key=lambda each: (self._doing[each].span.ended_s, each))
            doing = self._doing[node]
            if doing.span.ended_s > limit_s:
                break
            if doing.task is not None:
                begun = [each for each, other in self._doing.items() if other.task is not None]
                self._work(begun if self._channel.at_once else [node])
                continue
            del self._doing[node]
            self._before = {node: self._clock.now()}
            self._clock.go_to(doing.span.ended_s)
            if self._purpose is not Purpose.DESCRIBE:
                self._end(node, doing.span)
            return node, doing.answer
        if self._doing:
            self._clock.go_to(limit_s)
        return None

    def _begin(self, node: int, task: TaskParts, group: str) -> Doing:
        """The task as far as its times are known: `ended_s` is the earliest possible."""
        clock, device = self._clock, device_of(self._clock.fleet, node)
        failed = NoAnswer(f"device {device.name!a} failed during its task")
        if self._purpose is Purpose.TRAIN and (before := clock.going_on.pop(node, None)):
            fails = before.outcome == "dropped"
            span = before if fails else replace(before, ended_s=before.worked_s)
            return Doing(span, fails, None if fails else task, failed if fails else b"")
        now_s = clock.now()
        span = Span(node, device.name, self._purpose.value, now_s, now_s, now_s, now_s, "answered")
        # While training continues, evaluations take no time.
        is_timed = self._purpose is Purpose.TRAIN or (clock.is_on(node) and not clock.in_progress())
        if self._purpose is Purpose.DESCRIBE or not is_timed:
            return Doing(span, fails=False, task=task)
        received_s = now_s + _seconds(sum(map(len, task)), device.down_mbps)
        work_s = self._channel.work(node, task) / device.tokens_per_s
        if self._purpose is Purpose.TRAIN:
            fraction = self._channel.fails_at(node, group)
            if fraction is not None:
                stopped_s = received_s + fraction * work_s
                noticed_s = stopped_s + clock.fleet.notice_s
                span = replace(span, received_s=received_s, worked_s=stopped_s, ended_s=noticed_s, outcome="dropped")
                return Doing(span, True, None, failed)
        elif not clock.fleet.time_evaluations:
            work_s = 0.0
        worked_s = received_s + work_s
        return Doing(replace(span, received_s=received_s, worked_s=worked_s, ended_s=worked_s), False, task)

    def _work(self, nodes: Sequence[int]) -> None:
        """Let devices do their tasks."""
        if self._clock.training not in (None, self):
            for node in nodes:
                self._clock.training.catch_up(node)
        answers: dict[int, Data | NoAnswer] = {}
        with self._channel.inner.exchange(self._purpose, self._group) as exchange:
            for node in nodes:
                exchange.send(node, self._doing[node].task or (b"", b""))
            while received := exchange.receive(None):
                answers[received[0]] = received[1]
        for node in nodes:
            answer = answers.get(node, NoAnswer(f"node {node} gave no answer"))
            self._doing[node] = self._done(node, self._doing[node], answer)

    def _done(self, node: int, doing: Doing, answer: Data | NoAnswer) -> Doing:
        """A task whose answer is there."""
        size = 0 if isinstance(answer, NoAnswer) else len(answer)
        took_time = doing.span.worked_s > doing.span.began_s
        upload_s = _seconds(size, device_of(self._clock.fleet, node).up_mbps) if took_time else 0.0
        span = replace(doing.span, ended_s=doing.span.worked_s + upload_s)
        return replace(doing, span=span, task=None, answer=answer)

    def _release(self, node: int) -> None:
        """A device stops where the clock stands now."""
        doing = self._doing.pop(node, None)
        if doing is None or self._purpose is Purpose.DESCRIBE:
            return
        now_s, span = self._clock.now(), doing.span
        outcome = "dropped" if doing.fails and now_s >= span.worked_s else "released"
        times = {name: min(now_s, getattr(span, name)) for name in ("received_s", "worked_s", "ended_s")}
        if outcome == "released" and doing.fails:
            times["ended_s"] = now_s
        self._end(node, replace(span, **times, outcome=outcome))

    def _end(self, node: int, span: Span) -> None:
        # A device spends its power from the arrival of a task to the end of its upload, or until it fails.
        watts = device_of(self._clock.fleet, node).watts
        until_s = span.worked_s if span.outcome == "dropped" else span.ended_s
        self._ended[node] = span if watts is None else replace(span, energy_j=watts * (until_s - span.began_s))
        self._clock.end(self._ended[node])


def _seconds(size_bytes: int, mbps: float) -> float:
    return 8 * size_bytes / (1e6 * mbps)


def by_the_clock(simulation: "Simulation", stop: StopRequest | None) -> Channel:
    """The channel of a simulation, by the virtual clock of its fleet."""
    run, config = simulation.run, simulation.run.config
    channel = simulation.direct(stop)
    nodes = {simulation.name(index): index for index in range(config.clients)}
    fleet = load_fleet(config.fleet, base_parameters=run.base_parameters)
    clock = clock_after(simulation.directory, fleet, nodes)
    return VirtualChannel(
        channel, clock, partial(_work_of, simulation), seed=config.seed, at_once=config.has_several_devices
    )


def _work_of(simulation: "Simulation", node: int, task: TaskParts) -> float:
    """The work of a task in tokens of training, with padding; an evaluation's forward pass is a third of that."""
    settled, ranks = simulation.run.settled, simulation.run.ranks
    text = settled.tasks.to_describe().text
    data = b"".join(task)
    read = decode_task(data, max_bytes=len(data), held=lambda _: text)
    if not isinstance(read, DescribeTask | TrainTask | EvaluateTask):
        return 0.0
    settings = read.settings
    tokens = settings.seq_len * settled.config.learned.sequences
    if isinstance(read, TrainTask) and not settings.round_epochs:
        return float(settings.steps_taken * settings.step_examples * tokens)
    own = settled.config.ranks[node % len(settled.config.ranks)]
    spec = ranks.adapters[ranks.track_for(own)].spec
    size = simulation.model(node).data_size(spec, settings)
    if isinstance(read, TrainTask):
        return float(len(settings.part_of(size.train_examples)) * tokens)
    sequences = size.held_out_examples
    times = 2 if share_measured(settings) else 1
    return times * sequences * tokens / PASSES_OF_TRAINING


def clock_after(directory: RunDirectory, fleet: Fleet, nodes: Mapping[str, int]) -> VirtualClock:
    """The clock of a run as its finished rounds and evaluations left it."""
    if not directory.has_started:
        return VirtualClock(fleet)
    view = RunView.of(read_events(directory.ledger))
    finished, remembered = finished_in_checkpoint(directory.checkpoints)
    number = finished.round if finished else 0
    evaluated = view.evaluations.get(number)
    now_s = max((each.virtual_s or 0.0 for each in (finished, evaluated) if each), default=0.0)
    spent = [
        Span(nodes[each.client], **{name: getattr(each, name) for name in Span.__match_args__[1:]})
        for each in tasks_of(view)
        if each.round <= number and (each.purpose == Purpose.TRAIN.value or each.round < number or evaluated)
    ]
    tasks = cast("dict[str, dict[str, Any]]", remembered.get(IN_PROGRESS, {}))
    going_on = {nodes[client]: Span(**task) for client, task in tasks.items()}
    return VirtualClock(fleet, now_s=now_s, spent=spent, going_on=going_on)
