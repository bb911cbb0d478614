from __future__ import annotations

from plait.training.serving.threads import ThreadChoice


class Machine:
    """A clock that goes on by what a step takes with the threads that are set."""

    def __init__(self) -> None:
        self.now, self.threads, self.used = 0.0, 2, list[int]()
        self.seconds = {2: 1.0, 1: 1.8}
        self.choice = ThreadChoice(2, self.set, clock=lambda: self.now)

    def set(self, threads: int) -> None:
        self.threads = threads

    def steps(self, count: int) -> list[int]:
        self.used = []
        for _ in range(count):
            with self.choice.step():
                self.used.append(self.threads)
                self.now += self.seconds[self.threads]
        return self.used


def test_a_machine_that_is_free_is_used_whole_but_for_short_trials() -> None:
    used = Machine().steps(680)
    assert used.count(2) / len(used) > 0.9


def test_one_thread_is_taken_while_another_process_has_a_core_and_all_again_when_it_has_gone() -> None:
    machine = Machine()
    machine.steps(100)
    machine.seconds = {2: 4.0, 1: 2.0}
    machine.steps(80)
    used = machine.steps(680)
    assert used.count(1) / len(used) > 0.9
    machine.seconds = {2: 1.0, 1: 1.8}
    machine.steps(80)
    used = machine.steps(680)
    assert used.count(2) / len(used) > 0.9


def test_where_there_is_one_core_nothing_is_tried() -> None:
    changed: list[int] = []
    choice = ThreadChoice(1, changed.append)
    for _ in range(200):
        with choice.step():
            pass
    assert changed == []
