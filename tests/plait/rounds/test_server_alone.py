"""A server that departs from its run to read one client under masks, with nobody's help.

Its attacks go through the real coordinator, participants and messages; what it would learn is compared with what the
client had before any mask.
"""

import numpy as np
import pytest

from plait.rounds.masked_grid import MaskedGrid
from plait.rounds.masked_sum import Summed, sum_file
from plait.rounds.run_directory import RunDirectory

NAMES = ["alice", "bob", "carol", "dave", "erin"]
VICTIM = "erin"


@pytest.fixture
def numbers(monkeypatch):
    """The whole numbers of every client before any mask, in the order in which they were made."""
    found = []
    encode = MaskedGrid.encode
    monkeypatch.setattr(MaskedGrid, "encode", lambda self, *a, **k: found.append(encode(self, *a, **k)) or found[-1])
    return found


@pytest.fixture
def begin(federate, fake_model):
    """Begins a run of the same settings with clients as they are on machines of their own."""
    models = {name: fake_model(float(place), 3 + place) for place, name in enumerate(NAMES)}

    def begin(without=(), **more):
        federation = federate(models, masked=True, keep_updates=True, **{"rounds": 1, **more})
        federation.channel.gone |= {node for node, name in federation.channel.names.items() if name in without}
        for participant in federation.channel.participants.values():
            participant.secret = None
        return federation

    return begin


def sum_of(federation, number=1):
    return Summed.from_bytes(RunDirectory.find(federation.path).load_update(number, sum_file("train")))


def test_the_same_settings_begun_again_without_one_client_do_not_show_its_update(begin, numbers):
    sums = []
    for without in ((), (VICTIM,)):
        federation = begin(without)
        federation.run()
        sums.append(sum_of(federation))
    victims = numbers[NAMES.index(VICTIM)]
    found = sums[0].numbers - sums[1].numbers
    assert np.mean(found == victims) < 0.5
