"""A client and a server of one masked sum, stage by stage."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from plait.errors import PeerError
from plait.secagg import client as client_module
from plait.secagg.client import MaskingClient
from plait.secagg.server import Collecting, LostError, TooFewError, accused_by, check_offer, judge
from plait.trust.keys import NodeIdentity, NodeKey
from plait.trust.masks import Ring, split
from plait.wire.masked_roster import PARCEL_BYTES, MaskedAttempt, Roster

SESSION = MaskedAttempt(bytes(range(16)), "train", 3, b"a" * 16)
RECEIVED = b"d" * 32
BITS, SIZE, FIGURES = 7, 203, 3


class Federation:
    """`count` clients with node keys, their numbers, and a server."""

    def __init__(self, count, *, bits=BITS, size=SIZE):
        self.names = [f"client-{number:04d}" for number in range(count)]
        self.keys = {name: NodeKey.generate() for name in self.names}
        generator = np.random.default_rng(count)
        half = (1 << (bits - 1)) // count or 1
        self.numbers = {name: generator.integers(-half, half + 1, size) for name in self.names}
        self.figures = {name: generator.integers(0, 1 << 40, FIGURES).astype(np.uint64) for name in self.names}
        self.ring, self.size = Ring(bits), size
        self.clients = {name: MaskingClient(name) for name in self.names}

    def vouch(self, client, identity, *_proof):
        return client in self.keys and self.keys[client].public_bytes == identity

    def offer(self, name, session=SESSION):
        key = self.keys[name]
        identity = NodeIdentity(key.public_bytes, key.sign, self.vouch)
        self.clients[name], offer = self.clients[name].offer(session, identity)
        check_offer(offer, name, session, self.vouch)
        return offer

    def roster(self, names, session=SESSION):
        offers = tuple(self.offer(name, session) for name in names)
        return Roster(session, offers, bits=self.ring.bits, unit=0.5, size=self.size, figures=FIGURES)

    def undelivered(self, roster, names):
        """These clients have shared, and nothing has been delivered."""
        collecting = Collecting(roster)
        for name in names:
            self.clients[name], parcels = self.clients[name].share(roster, self.vouch)
            collecting.add_parcels(name, parcels)
        collecting.close_sharing()
        return collecting

    def share(self, roster, names):
        """These clients have shared, and have the others' shares."""
        collecting = self.undelivered(roster, names)
        for name in names:
            parcels = collecting.parcels_for(roster.place(name))
            self.clients[name], unreadable = self.clients[name].deliver(roster.session, collecting.sharers, parcels)
            assert not unreadable
        return collecting

    def mask(self, collecting, names, received=RECEIVED):
        for name in names:
            values = self.ring.reduced(self.numbers[name])
            session = collecting.roster.session
            self.clients[name], *masked = self.clients[name].masked(
                session, values, self.figures[name], received=received, sign=self.keys[name].sign
            )
            collecting.add_masked(name, *masked)

    def sign(self, sealed, names):
        signatures = {}
        for name in names:
            self.clients[name], signature = self.clients[name].sign(
                sealed.roster.session, sealed.survivors, sealed.neighbours_of(name), self.keys[name].sign
            )
            sealed.check_signature(name, signature)
            signatures[sealed.roster.place(name)] = signature
        return signatures

    def reveal(self, sealed, signatures, names):
        shares = {}
        for name in names:
            self.clients[name], given = self.clients[name].reveal(sealed.roster.session, sealed.survivors, signatures)
            sealed.check_shares(name, given)
            shares[sealed.roster.place(name)] = given
        return shares

    def sum_of(self, names):
        numbers = sum(self.numbers[name] for name in names)
        return self.ring.lifted(self.ring.reduced(numbers)), sum(self.figures[name] for name in names)

    def run(self, gone):
        """All stages; `gone[name]` is the stage from which a client is silent."""

        def left(stage):
            return [name for name in self.names if gone.get(name, 5) > stage]

        roster = self.roster(left(0))
        collecting = self.share(roster, left(1))
        self.mask(collecting, left(2))
        sealed = collecting.seal()
        signatures = self.sign(sealed, left(3))
        shares = self.reveal(sealed, signatures, left(4))
        return left(2), sealed.unmask(shares, received=RECEIVED)


@pytest.fixture
def federation():
    return Federation(5)


@pytest.fixture
def roster(federation):
    return federation.roster(federation.names)


@pytest.fixture
def collecting(federation, roster):
    return federation.share(roster, federation.names)


def masked(federation, client):
    figures, sign = np.zeros(FIGURES, np.uint64), federation.keys[client.client].sign
    return client.masked(SESSION, federation.ring.zeros(SIZE), figures, received=RECEIVED, sign=sign)


def without(sealed, *places):
    """The same, as a server tells it that leaves some survivors out."""
    return replace(sealed, masked={place: each for place, each in sealed.masked.items() if place not in places})


def sealed_of(federation):
    collecting = federation.share(federation.roster(federation.names), federation.names)
    federation.mask(collecting, federation.names)
    return collecting.seal()


@pytest.fixture
def sealed(federation):
    return sealed_of(federation)


@pytest.fixture
def shared(federation, roster):
    return federation.undelivered(roster, federation.names)


def check_equal(federation, survivors, result):
    values, figures = federation.sum_of(survivors)
    np.testing.assert_array_equal(result[0], values)
    np.testing.assert_array_equal(result[1], figures)


@pytest.mark.parametrize("stages", list(itertools.combinations_with_replacement(range(5), 2)))
def test_five_clients_of_which_any_two_leave_at_any_stages(stages):
    """Every pair of leaving clients at every pair of stages: the plain sum where two thirds are left, else nothing."""
    for pair in itertools.permutations(range(5), 2):
        federation = Federation(5)
        gone = {federation.names[one]: stage for one, stage in zip(pair, stages, strict=True)}
        count = 5 - sum(stage == 0 for stage in stages)
        threshold = -(-2 * count // 3)
        if count - sum(stage > 0 for stage in stages) < threshold:
            with pytest.raises((TooFewError, PeerError), match="expected"):
                federation.run(gone)
        else:
            check_equal(federation, *federation.run(gone))


@pytest.mark.slow
def test_a_sparse_graph_above_256_clients():
    federation = Federation(270, bits=10, size=64)
    generator = np.random.default_rng(0)
    gone = {federation.names[one]: int(generator.integers(0, 5)) for one in generator.choice(270, 18, replace=False)}
    survivors, result = federation.run(gone)
    check_equal(federation, survivors, result)


def test_what_one_client_sends_looks_nothing_like_its_numbers():
    federation = Federation(5, size=4096)
    collecting = federation.share(federation.roster(federation.names), federation.names)
    name = federation.names[0]
    zeros = federation.ring.zeros(4096)
    _, values, figures, _ = federation.clients[name].masked(
        SESSION, zeros, np.zeros(FIGURES, np.uint64), received=RECEIVED, sign=federation.keys[name].sign
    )
    assert collecting.roster.size == 4096
    counts = np.bincount(values, minlength=128)
    chi_square = float(((counts - 32.0) ** 2 / 32.0).sum())
    assert chi_square < 250  # 127 degrees of freedom: 1 in 10^9
    assert figures.min() > 1 << 40


def test_masks_of_clients_that_were_sent_another_model_do_not_cancel(federation, collecting):
    federation.mask(collecting, federation.names[:4])
    federation.mask(collecting, federation.names[4:], received=b"e" * 32)
    sealed = collecting.seal()
    shares = federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
    values, _ = sealed.unmask(shares, received=RECEIVED)
    assert (values != federation.sum_of(federation.names)[0]).mean() > 0.9


class TestComplaint:
    """A client cannot open what another sent it; which of the two departs from the protocol follows from one key."""

    def test_who_cannot_open_a_parcel_says_so_and_masks_nothing(self, federation, shared):
        name = federation.names[0]
        parcels = {**shared.parcels_for(0), 3: bytes(PARCEL_BYTES)}
        client, unreadable = federation.clients[name].deliver(SESSION, shared.sharers, parcels)
        assert unreadable == (3,)
        with pytest.raises(PeerError, match="requested twice, or before"):
            masked(federation, client)

    @pytest.mark.parametrize(
        ("accused", "key", "blamed"),
        [
            ({3: 0}, None, (set(), {0}, set())),
            ({3: 0, 4: 0}, b"k" * 32, ({3}, set(), {4})),
            ({3: 0}, b"k" * 31, ({3}, set(), set())),
        ],
        ids=["its own", "another, and one shows none", "no key"],
    )
    def test_the_key_that_an_accused_shows_decides_who_is_to_blame(self, federation, shared, accused, key, blamed):
        _, own = federation.clients[federation.names[3]].show(SESSION, 0)
        assert judge(shared, accused, {3: own if key is None else key}) == blamed
        assert accused_by({1: (3,), 0: (3,)}) == {3: 0}

    def test_a_key_opens_the_parcel_that_it_is_of_and_no_other(self, federation, shared):
        _, key = federation.clients[federation.names[3]].show(SESSION, 0)
        assert shared.is_readable(3, 0, key)
        assert not any(
            shared.is_readable(sender, receiver, key)
            for sender in range(5)
            for receiver in range(5)
            if sender != receiver and (sender, receiver) != (3, 0)
        )

    def test_a_client_that_has_shown_a_key_does_nothing_more_in_this_attempt(self, federation, collecting):
        """Else a server that complains in others' names would have its shares, and then its numbers."""
        name = federation.names[3]
        federation.clients[name], _ = federation.clients[name].show(SESSION, 0)
        for more in (lambda: federation.mask(collecting, [name]), lambda: federation.clients[name].show(SESSION, 1)):
            with pytest.raises(PeerError, match="this attempt is over"):
                more()
        federation.offer(name, replace(SESSION, attempt=b"b" * 16))

    def test_a_client_whose_numbers_are_under_way_shows_no_key(self, federation, collecting):
        federation.mask(collecting, federation.names)
        with pytest.raises(PeerError, match="after the masked update"):
            federation.clients[federation.names[3]].show(SESSION, 0)

    @pytest.mark.parametrize("receiver", [3, 7])
    @pytest.mark.usefixtures("shared")
    def test_only_keys_of_its_own_parcels(self, receiver, federation):
        with pytest.raises(PeerError, match="neighbour"):
            federation.clients[federation.names[3]].show(SESSION, receiver)


def test_a_share_that_its_holder_was_not_given_is_refused(federation, sealed):
    shares = federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
    given = dict(shares[1])
    for owner in (0, 2, 3, 4):
        wrong = bytes(len(given[owner]) - 1) + b"\x01"
        with pytest.raises(PeerError, match="another share"):
            sealed.check_shares(federation.names[1], {**given, owner: wrong})


def test_shares_of_another_secret_are_the_fault_of_who_shared_them(monkeypatch, federation, roster):
    own = federation.clients[federation.names[2]].own

    def wrong(secret, **more):
        return split(b"?" * 32 if secret in (own.masking, own.seed) else secret, **more)

    monkeypatch.setattr(client_module, "split", wrong)
    collecting = federation.share(roster, federation.names)
    federation.mask(collecting, federation.names)
    sealed = collecting.seal()
    shares = federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
    # With its own seed the sum is there all the same.
    check_equal(federation, federation.names, sealed.unmask(shares, received=RECEIVED))
    del shares[2]
    with pytest.raises(LostError) as lost:
        sealed.unmask(shares, received=RECEIVED)
    assert lost.value.client == federation.names[2]


class TestMaliciousServer:
    """Each case would show a single client's numbers; each is refused by the client."""

    def test_no_client_gives_both_shares_of_a_peer(self, federation, sealed):
        signatures = federation.sign(sealed, federation.names)
        federation.reveal(sealed, signatures, federation.names[:1])
        fewer = without(sealed, 4)
        with pytest.raises(PeerError, match="no second unmasking"):
            federation.reveal(fewer, signatures, federation.names[:1])

    def test_no_client_signs_two_lists(self, federation, sealed):
        federation.sign(sealed, federation.names[:1])
        with pytest.raises(PeerError, match="another list"):
            federation.sign(without(sealed, 4), federation.names[:1])

    def test_a_swapped_list_has_too_few_signatures(self, federation, sealed):
        signatures = federation.sign(sealed, federation.names[:3])
        fewer = without(sealed, 4)
        signatures |= federation.sign(fewer, federation.names[3:4])
        with pytest.raises(PeerError, match="1 survivors have signed"):
            federation.reveal(fewer, signatures, federation.names[3:4])

    def test_one_signature_does_not_count_twice_nor_for_another(self, federation, sealed):
        (signature,) = federation.sign(sealed, federation.names[:1]).values()
        with pytest.raises(PeerError, match="1 survivors have signed"):
            federation.reveal(sealed, dict.fromkeys(range(5), signature), federation.names[:1])

    @pytest.mark.parametrize("survivors", [(0, 1, 2), (1, 2, 3, 4), (0, 1, 2, 3, 9), (0, 0, 1, 2, 3), (3, 2, 1, 0)])
    def test_impossible_lists_of_survivors(self, survivors, federation, sealed):
        with pytest.raises(PeerError):
            federation.sign(replace(sealed, masked=dict.fromkeys(survivors, b"")), federation.names[:1])

    def test_no_client_of_three_takes_part_in_a_sum_of_two(self):
        federation = Federation(3)
        sealed = sealed_of(federation)
        with pytest.raises(PeerError, match="2 clients survived, expected at least 3"):
            federation.sign(without(sealed, 2), federation.names[:1])
        for stage in range(1, 4):
            with pytest.raises((TooFewError, PeerError), match="expected at least 3"):
                Federation(3).run({"client-0002": stage})
        # Once the list is signed no share is needed of any of the three.
        federation = Federation(3)
        check_equal(federation, *federation.run({"client-0002": 4}))

    def test_a_round_is_unmasked_once_whatever_the_attempt(self, federation, sealed):
        federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
        for number in (2, 3):
            with pytest.raises(PeerError, match="unmasked before"):
                federation.roster(federation.names, replace(SESSION, round=number, attempt=b"b" * 16))
        federation.roster(federation.names, replace(SESSION, round=4, attempt=b"b" * 16))
        federation.roster(federation.names, replace(SESSION, purpose="evaluate", attempt=b"b" * 16))

    def test_an_earlier_attempt_is_gone_with_its_secrets(self, federation, sealed):
        signatures = federation.sign(sealed, federation.names)
        federation.roster(federation.names, replace(SESSION, attempt=b"b" * 16))
        with pytest.raises(PeerError, match="not for the current attempt"):
            federation.reveal(sealed, signatures, federation.names[:1])

    def test_a_replayed_attempt_is_refused(self, federation):
        sealed_of(federation)
        with pytest.raises(PeerError, match="begun before"):
            federation.offer(federation.names[0])

    def test_a_second_update_under_the_same_masks_is_refused(self, federation, collecting):
        federation.mask(collecting, federation.names)
        with pytest.raises(PeerError, match="requested twice"):
            federation.mask(collecting, federation.names[:1])

    def test_a_forged_key_is_refused(self):
        federation, stranger = Federation(5), NodeKey.generate()
        roster = federation.roster(federation.names)
        forged = replace(roster.offers[4], encryption=b"\x09" + bytes(31), masking=b"\x0a" + bytes(31))
        for offer, match in (
            (forged, "not signed"),
            (replace(forged, signature=stranger.sign(forged.signed(SESSION))), "not signed"),
            (
                replace(
                    forged := replace(forged, identity=stranger.public_bytes),
                    signature=stranger.sign(forged.signed(SESSION)),
                ),
                "not the one that was provisioned",
            ),
        ):
            bad = replace(roster, offers=(*roster.offers[:4], offer))
            with pytest.raises(PeerError, match=match):
                federation.clients[federation.names[0]].share(bad, federation.vouch)

    @pytest.mark.parametrize(
        "change",
        [
            lambda roster: replace(roster, offers=roster.offers[:2]),
            lambda roster: replace(roster, offers=(*roster.offers[:4], roster.offers[3])),
            lambda roster: replace(roster, offers=roster.offers[::-1]),
            lambda roster: replace(roster, offers=roster.offers[1:]),
            lambda roster: replace(roster, session=replace(SESSION, round=4)),
            lambda roster: replace(roster, bits=40),
            lambda roster: replace(roster, unit=float("nan")),
        ],
    )
    def test_rosters_that_protect_no_client(self, change, federation, roster):
        with pytest.raises(PeerError):
            federation.clients[federation.names[0]].share(change(roster), federation.vouch)

    def test_a_second_roster_of_one_attempt_is_refused(self, federation, roster):
        federation.share(roster, federation.names)
        with pytest.raises(PeerError, match="second roster"):
            federation.clients[federation.names[0]].share(replace(roster, offers=roster.offers[:4]), federation.vouch)

    def test_a_changed_or_swapped_share_cannot_be_delivered(self, federation, shared):
        sharers, right = shared.sharers, dict(shared.parcels_for(0))
        flipped = bytes((right[1][0] ^ 1,)) + right[1][1:]
        client = federation.clients[federation.names[0]]
        for wrong, unreadable in ((right | {1: flipped}, (1,)), (right | {1: right[2], 2: right[1]}, (1, 2))):
            assert client.deliver(SESSION, sharers, wrong) == (client, unreadable)
        # The last says that so few have shared that the others' masks could all be taken off.
        for told, wrong in ((sharers, right | {9: right[1]}), (sharers, {1: right[1]}), ((0, 1), {1: right[1]})):
            with pytest.raises(PeerError):
                client.deliver(SESSION, told, wrong)


class TestBadClients:
    def test_without_two_of_five_the_seed_of_either_is_missing(self, federation, sealed):
        shares = federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
        without = {place: given for place, given in shares.items() if place != 1}
        check_equal(federation, federation.names, sealed.unmask(without, received=RECEIVED))
        del without[2]
        with pytest.raises(TooFewError, match="3 shares of a secret of 'client-0001'"):
            sealed.unmask(without, received=RECEIVED)

    def test_shares_off_the_roster_twice_or_of_another_size_are_refused(self, federation, roster):
        collecting = Collecting(roster)
        federation.clients[federation.names[0]], parcels = federation.clients[federation.names[0]].share(
            roster, federation.vouch
        )
        for wrong in ({**parcels, 9: parcels[1]}, {1: parcels[1]}, {**parcels, 1: b"short"}):
            with pytest.raises(PeerError):
                collecting.add_parcels(federation.names[0], wrong)
        with pytest.raises(PeerError, match="not on the roster"):
            collecting.add_parcels("stranger", parcels)
        collecting.add_parcels(federation.names[0], parcels)
        with pytest.raises(PeerError, match="late or twice"):
            collecting.add_parcels(federation.names[0], parcels)

    def test_a_client_that_did_not_share_has_no_masked_update(self, federation, roster):
        collecting = federation.share(roster, federation.names[:4])
        with pytest.raises(PeerError, match="without shares"):
            collecting.add_masked(federation.names[4], federation.ring.zeros(SIZE), np.zeros(FIGURES, np.uint64), b"")


def test_a_client_continues_from_its_journal_at_every_stage():
    federation = Federation(4)

    def restart():
        for name, client in federation.clients.items():
            federation.clients[name] = MaskingClient.from_bytes(client.to_bytes())
            assert federation.clients[name] == client

    roster = federation.roster(federation.names)
    restart()
    collecting = federation.share(roster, federation.names)
    restart()
    federation.mask(collecting, federation.names)
    restart()
    sealed = collecting.seal()
    signatures = federation.sign(sealed, federation.names)
    restart()
    shares = federation.reveal(sealed, signatures, federation.names)
    restart()
    # A server that lost the answers asks the same again, and gets the same.
    assert federation.sign(sealed, federation.names) == signatures
    assert federation.reveal(sealed, signatures, federation.names) == shares
    check_equal(federation, federation.names, sealed.unmask(shares, received=RECEIVED))


def test_a_journal_that_is_over_holds_no_secret_but_what_was_revealed():
    federation = Federation(4)
    sealed = sealed_of(federation)
    own = federation.clients[federation.names[0]].own
    federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
    journal = federation.clients[federation.names[0]].to_bytes()
    assert not any(secret.hex().encode() in journal for secret in (own.encryption, own.masking, own.noise))
    assert federation.clients[federation.names[0]].own is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"client": 1}'])
def test_a_damaged_journal_is_refused(data):
    with pytest.raises(PeerError, match="damaged"):
        MaskingClient.from_bytes(data)


def test_a_roster_has_another_digest_for_every_change():
    federation = Federation(3)
    roster = federation.roster(federation.names)
    others = [
        replace(roster, bits=8),
        replace(roster, unit=0.25),
        replace(roster, size=1),
        replace(roster, figures=4),
        replace(roster, offers=roster.offers[:2]),
        replace(roster, session=replace(SESSION, attempt=b"c" * 16)),
    ]
    assert len({each.digest for each in (roster, *others)}) == 1 + len(others)
