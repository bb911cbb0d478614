"""One member of a masked sum against the others: what it hides under its masks, and what it does in the stages.

Each case is a run of five clients, of whom one departs from the protocol in one way from some round on; the unit tests'
claims must hold (`tests/plait/secagg/test_one_member.py`): the others' run goes on or ends with the last good one,
no round moves the adapter much further than an honest one, the ledger names the member alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, Federation, borrowed, no_waiting_for_the_disk, tests_in

attacks = borrowed("plait/secagg/test_one_member.py")
LEAST = 24


def run(*, full: bool, scratch: Path) -> Row:
    del full
    with no_waiting_for_the_disk():
        return Row.of("one member against a masked round", _complaints(scratch), least=LEAST)


def _complaints(scratch: Path) -> Iterator[str]:
    made = iter(range(1000))

    def federate(models: object, **plan: object) -> Federation:
        return Federation(scratch / f"run-{next(made)}", models, wire="fp32", **plan)

    for name, test, parameters in tests_in(vars(attacks)):
        with pytest.MonkeyPatch.context() as patch:
            given = {"federate": federate, "fake_model": FakeModel, "monkeypatch": patch, **parameters}
            try:
                test(**{each: given[each] for each in signature(test).parameters})
            # What `pytest.raises` says is no Exception.
            except (Exception, pytest.fail.Exception) as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                yield f"{name}: {type(error).__name__} {str(error).splitlines()[0] if str(error) else at.line}"
            else:
                yield ""
