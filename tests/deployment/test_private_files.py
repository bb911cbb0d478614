"""No other user of the machine reads what plait writes, whatever the umask."""

import contextlib
import io
import logging
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from plait.cli.serving import log_to
from plait.trust.provision import provision
from server.standing import RunQueue
from tests.attending import NAMES, SMALL, rows, served, shares_of


@pytest.fixture(params=[0o022, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> Iterator[str]:
    """Paths at and below a folder that other users can open, with their mode; clients may be writing there."""
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                if (mode := path.lstat().st_mode) & 0o077:
                    yield f"{path} {stat.S_IMODE(mode):o}"


@pytest.mark.slow
@pytest.mark.usefixtures("umask")
def test_a_simulation_a_deployment_and_a_kit_are_closed_to_other_users(tmp_path):
    during = set[str]()
    places = [tmp_path / name for name in ("a", "b/run", "b/state", "kits", "queue")]

    def look(_event: object) -> None:
        during.update(found for place in places if place.exists() for found in open_to_others(place))

    given = {**SMALL, "keep_updates": True, "callbacks": [look]}
    simulated = plait.simulate(rows(), out=tmp_path / "a/simulated", partition="natural:author", clients=3, **given)  # type: ignore[arg-type]
    simulated.adapter("ada")
    provision(tmp_path / "kits", NAMES, ("localhost",), operators=["olga"], now=datetime.now(UTC))
    log_to(tmp_path / "a/server.log")
    # A progress bar takes standard error over, and shows what is written to it above itself.
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        logging.getLogger("plait.server").warning("event=lost")
    assert "event=lost" in screen.getvalue()
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        screen.close()
        logging.getLogger("plait.server").warning("event=unseen")
    assert "event=unseen" in (tmp_path / "a/server.log").read_text()
    served(tmp_path / "b/run", shares_of(rows()), tmp_path / "b", kits=tmp_path / "kits", clients=3, **given)
    RunQueue(tmp_path / "queue").close()
    look(None)
    assert during == set()
    assert all(map(Path.exists, places))
