"""Make a process of `plait` kill itself (SIGKILL) at a point of a masked round, for updates.

A point is `client/STAGE/ROUND/before|after`: when a client is asked for a stage, or once its journal has the answer and
nobody else does; or `server/STAGE/ROUND/NUMBER`: once the server has so many answers of a stage; or
`server/FILE/ROUND/stored`: once one of its files (sealed, signed, sum) is on disk.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from plait.features.secagg.masked_attempts import MaskedAttempts
from plait.features.secagg.masked_stage import MaskedStage
from plait.features.secagg.masking import Masking
from plait.features.secagg.messages import Delivery, Survivors, Unmasking
from plait.features.secagg.roster import Roster
from plait.rounds.run_directory import RunDirectory

_STAGES = {type(None): "keys", Roster: "shares", Delivery: "delivery", Survivors: "signatures", Unmasking: "unmasking"}


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process goes on")


def _around(owner: type, name: str, is_it: Callable[..., bool], *, before: bool) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def doomed(*given: Any, **more: Any) -> Any:
        hit = is_it(*given, **more)
        if hit and before:
            _die()
        result = real(*given, **more)
        if hit:
            _die()
        return result

    setattr(owner, name, doomed)


def doom(point: str) -> None:
    """Make this process die at a point."""
    who, what, number, when = point.split("/")
    if who == "client":
        _doom_client(what, int(number), before=when == "before")
    elif when == "stored":
        file = f"secagg-train-{what}"
        is_it = lambda _, stored_round, name, data: (stored_round, name) == (int(number), file)  # noqa: E731
        _around(RunDirectory, "store_update", is_it, before=False)
    else:
        _doom_server(what, int(number), int(when))


def _doom_client(stage: str, number: int, *, before: bool) -> None:
    def is_asked(masking: Masking, task: Any) -> bool:
        session = task.session
        return (_STAGES[type(task.stage)], session.purpose, session.round) == (stage, "train", number)

    def is_masked(masking: Masking, session: Any, *given: Any, **more: Any) -> bool:
        return stage == "training" and (session.purpose, session.round) == ("train", number)

    _around(Masking, "answer", is_asked, before=before)
    _around(Masking, "masked", is_masked, before=before)


def _doom_server(stage: str, number: int, answers: int) -> None:
    seen = 0

    def counted(name: str, purpose: str, asked_round: int) -> bool:
        nonlocal seen
        seen += (name, purpose, asked_round) == (stage, "train", number)
        return seen == answers

    def is_heard(asked: Any, heard: Any) -> bool:
        return counted(asked._name, asked.session.purpose, asked.session.round)

    def is_masked(attempts: MaskedAttempts, wanted: Any, *given: Any) -> bool:
        return counted("training", wanted.purpose, wanted.round)

    _around(MaskedStage, "_read", is_heard, before=False)
    _around(MaskedAttempts, "_note", is_masked, before=False)
