"""Withdrawals that are killed with SIGKILL as they are about to touch the disk, at twenty moments, and then repeated.

    python -m tests.plait.api.killed_withdrawals RUN AGAIN SCRATCH

RUN is a finished run of ada, bob and eve with kept updates; AGAIN is that of the others.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

from plait.api.withdrawing import Plan, carry_out, plan_of
from plait.config import RunConfig
from plait.ledger.events import ClientErased
from plait.ledger.ledger import read_events
from plait.ledger.privacy import ClientWithdrawn, Withdrawn
from plait.rounds.run_directory import RunDirectory, recorded_settings
from tests.killing import Fuse

MOMENTS = 20


def train_again(_: RunConfig) -> NoReturn:
    raise AssertionError("the others' run is finished already")


def killed_after(count: int, plan: Plan) -> int:
    """The signal that ended a withdrawal which was to be killed as it touched the disk for the `count`-th time."""
    if (child := os.fork()) == 0:
        Fuse(count + 1).listen()
        carry_out(plan, train_again)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main() -> None:
    """Kill at each moment, repeat, and compare."""
    whole, again, scratch = map(Path, sys.argv[1:])

    def copied(number: int) -> Plan:
        place = scratch / str(number)
        shutil.copytree(whole, place / "run")
        shutil.copytree(again, place / "out")
        directory = RunDirectory.find(place / "run")
        return plan_of(directory, recorded_settings(directory), "eve", out=place / "out")

    adapter = carry_out(copied(0), train_again).adapter
    struck = 0
    while killed_after(struck, plan := copied(struck + 1)) == signal.SIGKILL:
        events = read_events(plan.directory.ledger)
        if not any(isinstance(event, ClientErased) for event in events):
            assert (plan.directory.path / "spool/round-000001/eve.envelope").is_file(), struck
        assert carry_out(plan, train_again).adapter == adapter, struck
        assert not [file for file in plan.directory.path.rglob("*") if "eve" in file.name], struck
        ends = [type(event) for event in read_events(plan.directory.ledger)[-3:]]
        assert ends == [ClientWithdrawn, ClientErased, Withdrawn], struck
        struck += 1
    assert struck >= MOMENTS, struck
    print(f"killed at {struck} moments")


if __name__ == "__main__":
    main()
