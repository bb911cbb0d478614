"""A server that departs from its run to read one client under masks, without help.

Its attacks go through the real coordinator, participants and messages; what it would learn is compared with what the
client had before any mask.
"""

import numpy as np
import pytest

from plait.errors import DataError
from plait.features.secagg.grid import MaskedGrid
from plait.features.secagg.sums import Summed, sum_file
from plait.rounds.channel import Purpose
from plait.rounds.run_directory import RunDirectory
from plait.wire.messages import Refusal, decode_reply

NAMES = ["alice", "bob", "carol", "dave", "erin"]
VICTIM = "erin"


@pytest.fixture
def numbers(monkeypatch):
    """The whole numbers of every client before any mask, in the order they were made."""
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
            participant.way = federation.client_way(participant.name, secret=None)
        return federation

    return begin


def sum_of(federation, number=1):
    return Summed.from_bytes(RunDirectory.find(federation.path).load_update(number, sum_file("train")))


@pytest.mark.slow
def test_the_same_settings_begun_again_without_one_client_do_not_show_its_update(begin, numbers):
    sums = []
    for without in ((), (VICTIM,)):
        federation = begin(without)
        federation.run()
        sums.append(sum_of(federation))
    victims = numbers[NAMES.index(VICTIM)]
    found = sums[0].numbers - sums[1].numbers
    assert np.mean(found == victims) < 0.5


@pytest.mark.slow
def test_what_a_masked_round_says_of_clients_is_the_same_whatever_data_they_have(federate, fake_model):
    """So no number of rounds with changing clients can be solved for anybody's counts."""
    said = []
    for count in (3, 500):
        models = {name: fake_model(float(place), count + place, 40 * count) for place, name in enumerate(NAMES)}
        federation = federate(models, masked=True, rounds=1, keep_updates=True)
        replies = federation.replies = []
        federation.channel.tamper = lambda asked, reply, to=replies: to.append((asked.purpose, len(reply))) or reply
        federation.run()
        said.append((replies, sum_of(federation).figures.tolist(), sum_of(federation).numbers.tolist()))
    assert said[0] == said[1]


def test_a_refusal_in_a_masked_round_states_no_count(begin, fake_model):
    class Short(fake_model):
        def data_size(self, spec, settings):
            raise DataError("7 records, expected 8")

    federation = begin()
    replies = []
    for participant in federation.channel.participants.values():
        participant.model = Short(**vars(participant.model))
    federation.channel.tamper = lambda asked, reply: replies.append((asked.purpose, reply)) or reply
    with pytest.raises(Exception, match="expected"):
        federation.run()
    refused = [decode_reply(reply, max_bytes=len(reply)) for purpose, reply in replies if purpose is Purpose.DESCRIBE]
    assert {type(reply) for reply in refused} == {Refusal}
    assert {reply.detail for reply in refused} == {"this client's log says why"}
    assert "7 records" in federation.channel.participants[100].refusal
