"""Trees of servers: a region is a client of the server above it, and the server of its own clients."""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest

from plait.adapters.partial_sum import PartialSum
from plait.errors import PeerError
from plait.features.trees import region as region_module
from plait.features.trees.region import Region
from plait.features.trees.region_sum import RegionSum
from plait.rounds.channel import Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.ledger import Ledger, read_lines
from plait.rounds.run_directory import RunDirectory
from plait.rounds.spool import Weighting
from plait.rounds.task_settings import TaskSettings
from plait.rounds.terms import Terms
from plait.wire.codecs import Fp32
from plait.wire.envelope import encode_delta, encode_sum, open_envelope, read_envelope, seal
from plait.wire.messages import UpdateReply, decode_reply, encode_reply
from tests.plait.rounds.conftest import FINGERPRINT, InProcessChannel
from tests.plait.rounds.test_audit import replayed


class KilledError(BaseException):
    """What kill -9 looks like from inside."""


@dataclass
class Tree:
    """A federation whose clients are behind regions, at one level or two."""

    federation: object
    shape: tuple

    def __post_init__(self):
        self.leaves = self.federation.channel
        self.regions = {}
        self.federation.channel = self.channel(self.shape, self.federation.path.with_name("regions"))
        self.federation.plan = self.plan(self.shape)

    def plan(self, shape):
        plan, below = self.federation.plan, max(map(count, shape))
        return replace(plan, clients=len(shape), cohort_size=len(shape), region_clients=below if below > 1 else 0)

    def channel(self, shape, path):
        """To what is below a server: nodes of the flat run where the shape has numbers, else regions."""
        if all(isinstance(part, int) for part in shape):
            nodes = {node: self.leaves.participants[node] for node in shape}
            return InProcessChannel(nodes, self.leaves.names)
        names = {200 + at: f"{path.name}-{at}" for at in range(len(shape))}
        regions = {node: self.region(part, path / names[node]) for node, part in zip(names, shape, strict=True)}
        return InProcessChannel(regions, names)

    def region(self, shape, path):
        begin = (
            RunDirectory.find if RunDirectory(path).has_started else lambda p: RunDirectory.create(p, config_toml="")
        )
        federation = self.federation
        tasks = TaskSettings(federation.plan, federation.rule, new_factors=False)
        directory = begin(path)
        region = Region(
            name=path.name,
            channel=self.channel(shape, path),
            directory=directory,
            ledger=Ledger(directory.ledger, screen=self.screen),
            plan=self.plan(shape)
            if not isinstance(shape[0], int)
            else replace(federation.plan, clients=len(shape), cohort_size=len(shape)),
            ranks=federation.ranks,
            base_fingerprint=FINGERPRINT,
            rule=federation.rule,
            optimizer=federation.optimizer,
            terms=Terms(path.name, tasks, (federation.spec, federation.spec), federation.spec),
            adder=self.adder,
        )
        self.regions[path.name] = region
        return region

    adder, screen = RegionSum, None

    def restart(self):
        """All regions come back from what is on their disks."""
        for region in self.regions.values():
            region.close()
        self.regions.clear()
        self.federation.channel = self.channel(self.shape, self.federation.path.with_name("regions"))


def count(shape):
    return 1 if isinstance(shape, int) else sum(map(count, shape))


def crowd(fake_model, number):
    targets = np.random.default_rng(3).normal(size=number)
    return {f"client-{k}": fake_model(float(targets[k]), 3 + k) for k in range(number)}


@pytest.fixture
def grow():
    """Put regions between a federation's server and its clients."""
    trees = []

    def grown(federation, shape=((100, 101), (102, 103, 104, 105)), kind=Tree):
        trees.append(kind(federation, shape))
        return trees[-1]

    yield grown
    for tree in trees:
        for region in tree.regions.values():
            region.close()


TWO, DEEP = ((100, 101), (102, 103, 104, 105)), (((100, 101), (102,)), ((103, 104), (105,)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "plan"),
    [
        (TWO, {"wire": "1", "weighting": Weighting.EQUAL}),
        (TWO, {"wire": "fp32", "weighting": Weighting.EXAMPLES, "rule": "rolora"}),
        (DEEP, {"wire": "2", "weighting": Weighting.EXAMPLES, "optimizer": "fedadam"}),
    ],
)
def test_a_tree_ends_with_the_bits_of_the_flat_run(federate, grow, fake_model, shape, plan):
    flat = federate(crowd(fake_model, 6), rounds=3, **plan)
    expected = flat.run()
    tree = grow(federate(crowd(fake_model, 6), rounds=3, keep_updates=True, **plan), shape)
    found = tree.federation.run()
    assert found.adapter.digest() == expected.adapter.digest()
    assert found.shadow.digest() == expected.shadow.digest()

    # Clients cannot tell by what they hold, and the server's record has regions only.
    for name, memory in flat.memories.items():
        assert tree.federation.memories[name] == memory
    updates = tree.federation.of_kind("update_received")
    assert {event["client"] for event in updates} == set(tree.federation.channel.names.values())
    assert sum(event["clients"] for event in updates) == 18
    summed = read_lines(tree.regions["regions-0"].directory.ledger)
    sent = {event["digest"] for event in summed if event["event"] == "region_summed"}
    assert sent <= {event["digest"] for event in updates}
    # Losses of the tree are those of the flat run, up to their rounding.
    losses = [run.of_kind("evaluated")[-1]["loss"] for run in (flat, tree.federation)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert replayed(tree.federation) == 3


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(2, 3, "unsaved", "saved"), (1, 6)], ids=str)
def test_a_region_that_is_killed_goes_on_to_the_same_sum(federate, grow, fake_model, monkeypatch, moments):
    plan = {"rounds": 2, "wire": "bf16"}
    expected = federate(crowd(fake_model, 6), **plan).run()
    tree = grow(federate(crowd(fake_model, 6), **plan))
    asked, left = [], list(moments)

    def reached(moment):
        if left and left[0] == moment:
            del left[0]
            raise KilledError

    def before(ask):
        if ask.purpose is Purpose.TRAIN:
            reached(len(asked))
            asked.append((ask.client, ask.round))

    def saved(*args):
        reached("unsaved")
        save_checkpoint(*args)
        reached("saved")

    monkeypatch.setattr(region_module, "save_checkpoint", saved)
    found = None
    while found is None:
        tree.regions["regions-1"].channel.before = before
        with suppress(KilledError):
            found = tree.federation.run()
            break
        tree.restart()
    assert not left
    assert found.adapter.digest() == expected.adapter.digest()
    # What had come in before was not asked for again, and every sum is on record where it was made.
    assert len(asked) == len(set(asked)) == 8
    summed = [event for region in tree.regions.values() for event in read_lines(region.directory.ledger)]
    assert {event["digest"] for event in summed if event["event"] == "region_summed"} == {
        event["digest"] for event in tree.federation.of_kind("update_received")
    }


@pytest.mark.slow
def test_a_sum_that_was_ready_is_sent_again_as_it_was(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 6), rounds=1, wire="1"), TWO)
    answers = []

    def twice(asked, reply):
        if asked.purpose is Purpose.TRAIN:
            answers.append((reply, tree.regions[asked.client].answer(asked.task)))
        return reply

    tree.federation.channel.tamper = twice
    tree.federation.run()
    assert len(answers) == 2
    assert all(first == again for first, again in answers)


@pytest.mark.slow
def test_a_region_that_was_cut_off_catches_up(federate, grow, fake_model):
    plan = {"rounds": 3, "wire": "bf16", "quorum": 1}
    flat = federate(crowd(fake_model, 6), **plan)
    flat.channel.tamper = lambda asked, reply: (
        "away" if asked.round == 2 and asked.client in ("client-0", "client-1") else reply
    )
    tree = grow(federate(crowd(fake_model, 6), **plan), TWO)
    tree.federation.channel.silent = lambda asked: asked.round == 2 and asked.client == "regions-0"
    expected, found = flat.run(), tree.federation.run()
    # The clients of the region have done nothing in round 2, where those of the flat run have trained in vain.
    assert found.round == 3
    assert [event["clients"] for event in tree.federation.of_kind("update_received") if event["round"] == 2] == [4]
    for region in tree.regions.values():
        assert region._state.shadow.digest() == found.shadow.digest()
    assert expected.round == 3


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda part, header: (replace(part, weight=4.0), header), "weight"),
        (lambda part, header: (part, replace(header, metrics={**header.metrics, "clients": 5.0})), "region"),
        (lambda part, header: (part, replace(header, metrics={**header.metrics, "clients": 1.5})), "region"),
        (lambda part, header: (part, replace(header, examples=header.examples + 1)), "weight"),
        (lambda part, header: (PartialSum({0: part.limbs[max(part.limbs)] + 2.0**20}, part.weight), header), "norm"),
    ],
)
def test_a_region_weighs_no_more_than_its_clients(federate, grow, fake_model, lie, reason):
    shape = ((100,), (101,), (102,), (103, 104))
    tree = grow(federate(crowd(fake_model, 5), rounds=1, quorum=1, weighting=Weighting.EQUAL), shape)

    def lies(asked, reply):
        if asked.purpose is not Purpose.TRAIN or asked.client != "regions-3":
            return reply
        update = decode_reply(reply, max_bytes=1 << 20).update
        header = read_envelope(update, max_bytes=1 << 20).header
        part, header = lie(open_envelope(update, layout=tree.federation.spec.layout).sum, header)
        return encode_reply(UpdateReply(seal(header, encode_sum(part, tree.federation.spec.layout)).data))

    tree.federation.channel.tamper = lies
    tree.federation.run()
    refused = tree.federation.of_kind("update_refused")
    assert [(event["client"], event["reason"]) for event in refused] == [("regions-3", reason)]
    assert (
        sum(event["clients"] for event in tree.federation.of_kind("update_received") if event["client"] != "regions-3")
        == 3
    )


def resealed(reply, layout, change):
    """A reply with an update whose sum and header are others."""
    update = decode_reply(reply, max_bytes=1 << 20).update
    opened = open_envelope(update, layout=layout)
    part, header = change(opened.sum, opened.header)
    encoded = encode_delta(opened.delta, Fp32()) if part is None else encode_sum(part, layout)
    return encode_reply(UpdateReply(seal(header, encoded).data))


@pytest.mark.slow
def test_of_two_regions_one_that_says_it_weighs_nothing_does_not_count(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 6), rounds=1, quorum=1, weighting=Weighting.EXAMPLES), TWO)
    layout = tree.federation.spec.layout

    def nothing(part, header):
        return PartialSum({0: np.zeros(layout.size)}, 1e-300), header

    tree.federation.channel.tamper = lambda asked, reply: (
        resealed(reply, layout, nothing) if (asked.purpose, asked.client) == (Purpose.TRAIN, "regions-0") else reply
    )
    tree.federation.run()
    refused = tree.federation.of_kind("update_refused")
    assert [(event["client"], event["reason"]) for event in refused] == [("regions-0", "weight")]


def test_clients_that_claim_as_much_as_they_may_do_not_cost_their_region_its_place(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 6), rounds=1), TWO)
    layout = tree.federation.spec.layout

    def claims(part, header):
        most = {"train_tokens": 2.0**53, "refused_completions": 2.0**53}
        return part, replace(header, metrics={**header.metrics, **most})

    def exaggerates(asked, reply):
        if asked.purpose is Purpose.TRAIN:
            return resealed(reply, layout, claims)
        if asked.purpose is not Purpose.DESCRIBE:
            return reply
        card = decode_reply(reply, max_bytes=1 << 20)
        names = {f"{card.client}-{at}": at + 1 for at in range(40)}
        most = {"cut_examples": 2**63 - 1, "left_out_examples": 2**63 - 1}
        return encode_reply(replace(card, train_tokens=1 << 44, histogram=names, **most))

    tree.regions["regions-0"].channel.tamper = exaggerates
    tree.federation.run()
    assert tree.federation.of_kind("client_turned_away") == tree.federation.of_kind("update_refused") == []
    assert [event["clients"] for event in tree.federation.of_kind("update_received")] == [2, 4]


def test_of_many_names_the_rarest_are_counted_together():
    many = [{f"{name:03d}": 1000 - name for name in range(64)}, {"000": 7, "x" * 8000: 1, "(other)": 2}]
    found = region_module.merged(many)
    assert len(found) == 64
    assert found["000"] == 1007
    assert "x" * 8000 not in found
    assert sum(found.values()) == sum(sum(each.values()) for each in many)
    assert region_module.merged([{"a": 1}, {"a": 2, "b": 1}]) == {"a": 3, "b": 1}


@pytest.mark.slow
def test_a_region_asks_no_more_clients_than_its_tree_says(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 6), rounds=2, quorum=1), TWO)
    region = tree.regions["regions-1"]
    region.plan = replace(region.plan, clients=3)
    tree.federation.run()
    assert tree.federation.of_kind("update_refused") == []
    updates = tree.federation.of_kind("update_received")
    assert [event["clients"] for event in updates] == [2, 3, 2, 3]


def test_regions_take_part_only_where_the_server_has_a_tree(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 6), rounds=1, quorum=1), TWO)
    tree.federation.plan = replace(tree.federation.plan, region_clients=3)
    tree.federation.run()
    turned_away = tree.federation.of_kind("client_turned_away")
    assert [(event["client"], event["reason"]) for event in turned_away] == [("regions-1", "region")]


def test_a_client_of_two_regions_keeps_the_second_out(federate, grow, fake_model):
    shape = (((100, 101), (102,)), ((103, 100), (104, 105)))
    tree = grow(federate(crowd(fake_model, 6), rounds=1, quorum=1), shape)
    tree.federation.run()
    turned_away = tree.federation.of_kind("client_turned_away")
    assert [(event["client"], event["reason"]) for event in turned_away] == [("regions-1", "same-name")]
    assert "'regions-1' and 'regions-0' have a client of the same name" in turned_away[0]["detail"]
    assert [event["clients"] for event in tree.federation.of_kind("update_received")] == [3]
    # What is said of the members are no names.
    (asked,) = {ask.task for ask in tree.federation.channel.asked if ask.purpose is Purpose.DESCRIBE}
    card = decode_reply(tree.regions["regions-0"].answer(asked), max_bytes=1 << 20)
    assert len(card.members) == 3 * 8
    assert b"client" not in card.members


def test_a_region_that_is_rid_of_a_client_of_two_takes_part_later(federate, grow, fake_model, monkeypatch):
    tree = grow(federate(crowd(fake_model, 5), rounds=1, quorum=1), ((100, 101, 102), (103, 100, 104)))
    channel, hours = tree.federation.channel, []

    def wait(timeout_s):
        tree.regions["regions-1"].channel.gone.add(100)
        hours.append(timeout_s)
        assert len(hours) < 5

    channel.open_ended, channel.wait = True, wait
    monkeypatch.setattr("plait.rounds.roster.time.monotonic", lambda: 3600.0 * len(hours))
    tree.federation.run()
    assert [event["client"] for event in tree.federation.of_kind("client_turned_away")] == ["regions-1"]
    assert [event["clients"] for event in tree.federation.of_kind("update_received")] == [3, 2]


def test_a_region_that_left_while_it_described_itself_keeps_no_other_out(federate, grow, fake_model):
    tree = grow(federate(crowd(fake_model, 5), rounds=1, quorum=1), ((100, 101, 102), (103, 100, 104)))
    asked = []

    def identity(node):
        asked.append(node)
        if node == 200 and asked.count(node) == 2:
            raise PeerError("node 200 has left")

    tree.federation.channel.identity = identity
    tree.federation.run()
    assert [event["reason"] for event in tree.federation.of_kind("client_turned_away")] == ["no-answer"]
    assert [event["client"] for event in tree.federation.of_kind("update_received")] == ["regions-1"]


def test_a_client_cannot_send_a_sum(federate, fake_model):
    federation = federate(crowd(fake_model, 3), rounds=1, quorum=1)
    layout = federation.spec.layout

    def sums(asked, reply):
        if asked.purpose is not Purpose.TRAIN or asked.client != "client-1":
            return reply
        update = decode_reply(reply, max_bytes=1 << 20).update
        opened = open_envelope(update, layout=layout)
        header = replace(opened.header, metrics={"clients": 1000.0})
        part = replace(PartialSum.of(opened.delta.flat), weight=1000.0)
        return encode_reply(UpdateReply(seal(header, encode_sum(part, layout)).data))

    federation.channel.tamper = sums
    federation.run()
    refused = federation.of_kind("update_refused")
    assert [(event["client"], event["reason"]) for event in refused] == [("client-1", "region")]
