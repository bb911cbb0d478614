"""Make a process of `plait` kill itself (SIGKILL) at a point of a masked round, for updates.

A point is `client/STAGE/ROUND/before|after`: when a client is asked for a stage, or once its journal has the answer and
nobody else does; or `server/STAGE/ROUND/NUMBER`: once the server has so many answers of a stage; or
`server/FILE/ROUND/stored`: once one of its files (sealed, signed, sum) is on disk.
"""

from typing import Any

from plait.rounds.run_directory import RunDirectory
from plait.secagg.collector import MaskedCollector
from plait.secagg.masking import UnderMasks
from plait.secagg.stages import MaskedStage
from plait.wire.masked_messages import Delivery, Survivors, Unmasking
from plait.wire.masked_roster import Roster
from tests.killing import around

_STAGES = {type(None): "keys", Roster: "shares", Delivery: "delivery", Survivors: "signatures", Unmasking: "unmasking"}


def doom(point: str) -> None:
    """Make this process die at a point."""
    who, what, number, when = point.split("/")
    if who == "client":
        _doom_client(what, int(number), before=when == "before")
    elif when == "stored":
        file = f"secagg-train-{what}"
        is_it = lambda _, stored_round, name, data: (stored_round, name) == (int(number), file)  # noqa: E731
        around(RunDirectory, "store_update", is_it, before=False)
    else:
        _doom_server(what, int(number), int(when))


def _doom_client(stage: str, number: int, *, before: bool) -> None:
    def is_asked(sender: UnderMasks, task: Any) -> bool:
        session = task.session
        return (_STAGES[type(task.stage)], session.purpose, session.round) == (stage, "train", number)

    def is_masked(sender: UnderMasks, session: Any, *given: Any, **more: Any) -> bool:
        return stage == "training" and (session.purpose, session.round) == ("train", number)

    around(UnderMasks, "answer", is_asked, before=before)
    around(UnderMasks, "masked", is_masked, before=before)


def _doom_server(stage: str, number: int, answers: int) -> None:
    seen = 0

    def counted(name: str, purpose: str, asked_round: int) -> bool:
        nonlocal seen
        seen += (name, purpose, asked_round) == (stage, "train", number)
        return seen == answers

    def is_heard(asked: Any, heard: Any) -> bool:
        return counted(asked._name, asked.session.purpose, asked.session.round)

    def is_masked(collector: MaskedCollector, wanted: Any, *given: Any) -> bool:
        return counted("training", wanted.purpose, wanted.round)

    around(MaskedStage, "_read", is_heard, before=False)
    around(MaskedCollector, "_note", is_masked, before=False)
