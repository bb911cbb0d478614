"""Let several pieces of work run until each asks for the same kind of thing, and answer all that was asked at once.

Each piece of work has a thread, but one runs at a time, in the order given, and answers are made in the caller's
thread: what comes out does not depend on how threads are scheduled. Knows nothing of what is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

Asked = TypeVar("Asked")
Given = TypeVar("Given")
Result = TypeVar("Result")


class _Unwanted(BaseException):
    """The caller was interrupted: nobody waits for this work any more."""


@dataclass
class _Worker:
    """A piece of work on its thread.

    Attributes:
        asked: what it waits for; empty while it does not.
        given: what it gets.
        refused: raised where it asked, in place of an answer.
        outcome: what it came to.
        error: what it ended with in place of an outcome.
    """

    asked: list[object] = field(default_factory=list[object])
    given: object = None
    refused: BaseException | None = None
    outcome: object = None
    error: BaseException | None = None
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def turn(self) -> None:
        """Let it run until it asks or ends."""
        self.go.release()
        self.back.acquire()


class Gathering(Generic[Asked, Given]):
    """Answers together what pieces of work ask one by one.

    Args:
        answer: makes an answer to each thing asked, in their order.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Given]]) -> None:
        self._answer = answer
        self._local = threading.local()

    def ask(self, what: Asked) -> Given:
        """Called by the work; outside of `run` it is answered at once, alone."""
        worker = cast("_Worker | None", getattr(self._local, "worker", None))
        if worker is None:
            return self._answer([what])[0]
        worker.asked.append(what)
        worker.back.release()
        worker.go.acquire()
        refused, worker.refused = worker.refused, None
        if refused is not None:
            raise refused
        return cast("Given", worker.given)

    def run(self, works: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of all pieces of work, in their order.

        Raises:
            Exception: the first that a piece of work ended with, once all have ended.
        """
        workers = [_Worker() for _ in works]
        threads = [
            threading.Thread(target=self._work, args=(worker, work), daemon=True)
            for worker, work in zip(workers, works, strict=True)
        ]
        for thread in threads:
            thread.start()
        turn = workers
        try:
            while turn:
                for worker in turn:
                    worker.turn()
                turn = [worker for worker in turn if worker.asked]
                self._settle(turn)
        finally:
            for worker in workers:  # none waits but where the caller is interrupted
                worker.refused = _Unwanted()
                worker.go.release()
        for worker in workers:
            if worker.error is not None:
                raise worker.error
        return [cast("Result", worker.outcome) for worker in workers]

    def _settle(self, waiting: Sequence[_Worker]) -> None:
        if not waiting:
            return
        asked = [cast("Asked", worker.asked.pop()) for worker in waiting]
        try:
            for worker, given in zip(waiting, self._answer(asked), strict=True):
                worker.given = given
        except Exception as error:
            # Each piece of work is told, and decides.
            for worker in waiting:
                worker.refused = error

    def _work(self, worker: _Worker, work: Callable[[], object]) -> None:
        self._local.worker = worker
        worker.go.acquire()
        try:
            if worker.refused is None:
                worker.outcome = work()
        except BaseException as error:
            worker.error = error
        worker.back.release()
