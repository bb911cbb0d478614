"""Processes that kill themselves (SIGKILL) at a chosen moment. `tests/commands.py` kills others from outside."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
"""Audit events of Python's that come before a file is read or changed."""


def die(number: int = signal.SIGKILL) -> None:
    """Send this process a signal; returns only from one that it handles."""
    os.kill(os.getpid(), number)


def around(
    owner: Any, name: str, is_it: Callable[..., bool] = lambda *_, **__: True, *, before: bool,
    number: int = signal.SIGKILL,
) -> None:  # fmt: skip
    """Make this process die before, or after, it calls `owner.name` with what `is_it` says yes to."""
    real: Callable[..., Any] = getattr(owner, name)

    def doomed(*given: Any, **more: Any) -> Any:
        hit = is_it(*given, **more)
        if hit and before:
            die(number)
        result = real(*given, **more)
        if hit and not before:
            die(number)
        return result

    setattr(owner, name, doomed)


@contextmanager
def at_each_line(functions: Iterable[FunctionType], act: Callable[[str], None]) -> Iterator[None]:
    """Call `act` before each line of these functions, and as they return, in this thread: it sees what a kill leaves.

    A function that is not called in the block is an AssertionError.
    """
    codes = {function.__code__ for function in functions}
    missed = set(codes)

    def at_line(frame: FrameType, event: str, _: object) -> Any:
        if event in ("line", "return"):
            act(f"{frame.f_code.co_name}, line {frame.f_lineno - frame.f_code.co_firstlineno}, {event}")
        return at_line

    def called(frame: FrameType, event: str, given: object) -> Any:
        if frame.f_code not in codes:
            return None
        missed.discard(frame.f_code)
        return at_line

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(before)
    assert not missed, {code.co_name for code in missed}


class Fuse:
    """Counts the steps of this process that reach its disk, and kills it at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0
        self.marks: dict[str, int] = {}

    def step(self, where: str = "") -> None:
        self.steps += 1
        if where:
            self.marks[where] = self.steps
        if self.steps == self.at:
            die()

    def lay(self) -> None:
        """Count before and after everything that makes bytes or names durable."""
        fsync, replace = os.fsync, Path.replace

        def counted_fsync(descriptor: int) -> None:
            self.step()
            fsync(descriptor)

        def counted_replace(path: Path, target: Path) -> Path:
            self.step()
            result = replace(path, target)
            self.step()
            return result

        os.fsync, Path.replace = counted_fsync, counted_replace

    def listen(self, events: Collection[str] = TOUCHES) -> None:
        """Count before each of these audit events, for as long as this process lives."""
        sys.addaudithook(lambda event, _: self.step() if event in events else None)


OF_A_PROCESS = {
    "resumed", "interrupted", "clients_described", "waiting_for_clients", "clients_gathered", "broadcast",
    "reply_received",
}  # fmt: skip
"""Events that tell what a process does to begin or to go on: a run that was killed has others."""
OF_A_MOMENT = {"seq", "time", "prev", "hash", "run_id", "metrics", "commitment"}


def different_stories(
    killed: Iterable[Mapping[str, Any]], whole: Iterable[Mapping[str, Any]], *, again: Collection[str] = ()
) -> list[str]:
    """What the ledger of a killed run has otherwise than an undisturbed one; kinds in `again` may be there twice."""
    one, other = (
        Counter(
            json.dumps({name: event[name] for name in event.keys() - OF_A_MOMENT if name[-2:] != "_s"}, sort_keys=True)
            for event in events
            if event["event"] not in OF_A_PROCESS
        )
        for events in (killed, whole)
    )
    twice = {"round_started", *again}
    more = [line for line in one - other if line not in other or json.loads(line)["event"] not in twice]
    return [f"missing: {line}" for line in other - one] + [f"again or otherwise: {line}" for line in more]
