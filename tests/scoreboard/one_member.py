"""One member of a masked sum against the others: what it hides under its masks, and what it does in the stages.

Each case is a run of five clients, of whom one departs from the protocol in one way from some round on; the unit tests'
claims must hold (`tests/features/secagg/test_one_member.py`): the others' run goes on or ends with the last good one,
no round moves the adapter much further than an honest one, the ledger names the member alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, Federation, borrowed, no_waiting_for_the_disk

attacks = borrowed("features/secagg/test_one_member.py")
LEAST = 24


def run(*, full: bool, scratch: Path) -> Row:
    del full
    with no_waiting_for_the_disk():
        return Row.of("one member against a masked round", _complaints(scratch), least=LEAST)


def _complaints(scratch: Path) -> Iterator[str]:
    made = iter(range(1000))

    def federate(models: object, **plan: object) -> Federation:
        return Federation(scratch / f"run-{next(made)}", models, wire="fp32", **plan)

    for name, case in _cases():
        with pytest.MonkeyPatch.context() as patch:
            try:
                case(federate, FakeModel, patch)
            # What `pytest.raises` says is no Exception.
            except (Exception, pytest.fail.Exception) as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                yield f"{name}: {type(error).__name__} {str(error).splitlines()[0] if str(error) else at.line}"
            else:
                yield ""


def _cases() -> Iterator[tuple[str, Callable[..., None]]]:
    """The tests of that module, with their parameters, as functions of a federation's maker, a model and a patch."""
    for name, test in vars(attacks).items():
        if not name.startswith("test_"):
            continue
        names = test.__code__.co_varnames[: test.__code__.co_argcount]
        (mark,) = getattr(test, "pytestmark", ()) or (None,)
        told = [each.strip() for each in mark.args[0].split(",")] if mark and isinstance(mark.args[0], str) else []
        told = told or (list(mark.args[0]) if mark else [])
        for number, values in enumerate(mark.args[1] if mark else [()]):
            given = dict(zip(told, values if len(told) > 1 else [values], strict=True)) if told else {}
            words = name.removeprefix("test_").replace("_", " ") + (f" ({number + 1})" if told else "")
            yield words, _case(test, names, given)


def _case(test: Callable[..., None], names: tuple[str, ...], given: dict[str, object]) -> Callable[..., None]:
    def case(federate: object, fake_model: object, monkeypatch: object) -> None:
        have = {"federate": federate, "fake_model": fake_model, "monkeypatch": monkeypatch} | given
        test(**{name: have[name] for name in names})

    return case
