"""The rounds of an asynchronous run that has not begun, as its collector would go through them."""

from __future__ import annotations

from plait.config import RunConfig
from plait.features.asynchronous.buffer import Buffer, asking_order
from plait.features.asynchronous.way import buffer_of
from plait.rounds.channel import NoAnswer, Purpose
from plait.simulation.planned_run import Planned, names_of


def of_buffers(planned: Planned, config: RunConfig) -> None:
    """Let the rounds of a planned run be buffers."""
    buffer = buffer_of(config)
    planned.going = lambda: go_through(planned, buffer)


def go_through(planned: Planned, buffer: Buffer) -> None:
    """Go through all rounds as the collector does it; evaluations beside training take no time."""
    plan, clock = planned.plan, planned.clock
    working: dict[str, int] = {}
    planned.asked = Purpose.TRAIN, 1
    with planned.asking(Purpose.TRAIN, 1) as asking:
        for version in range(plan.rounds):
            asked, came, attempts = set[str](), set[str](), 1
            for name in [name for name, began in working.items() if version - began > buffer.max_staleness]:
                del working[name]
                asking.withdraw(name, "stale")
            while len(came) < buffer.size:
                free = [int(name) for name in planned.everyone if name not in {*working, *came, *asked}]
                room = plan.cohort_size - len(working)
                here = clock.available(free, 0 if working else 1) if free and room else ()
                names = asking_order(
                    names_of(here), plan.cohort_size, known=plan.clients, seed=plan.seed, round_number=version + 1
                )
                for name in names[:room]:
                    planned.send(asking, name, version + 1)
                    working[name] = planned.held[name] = version
                    asked.add(name)
                heard = asking.next(None)
                if heard is not None:
                    del working[heard.client]
                    if not isinstance(heard.data, NoAnswer):
                        came.add(heard.client)
                        planned.uplink_bytes += len(heard.data)
                elif len(came) >= plan.quorum or attempts == plan.attempts:
                    break
                else:
                    attempts += 1
                    asked.clear()
            planned.note_ended(version + 1)
            if version + 1 < plan.rounds:
                _evaluate_beside(planned, version + 1)
    planned.held |= dict.fromkeys(working, None)
    planned.evaluate(plan.rounds)


def _evaluate_beside(planned: Planned, number: int) -> None:
    for name in planned.evaluators(number):
        planned.downlink_bytes += sum(map(len, planned.task(Purpose.EVALUATE, name, number)))
        planned.uplink_bytes += planned.sizes.evaluation_up
        planned.held[name] = number
