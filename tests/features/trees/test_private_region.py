"""Trees of servers whose clients are private."""

from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from plait.features.privacy import rounds as private_fold
from plait.features.privacy.audit import check_privacy
from plait.features.privacy.mechanism import ClientPrivacy, clipped_to_grid
from plait.features.privacy.rounds import part_of, rounding_key
from plait.features.privacy.run import KEPT_OF_RECORDS
from plait.features.trees import region as region_module
from plait.features.trees.clipped_adder import ClippedAdder
from plait.rounds.channel import Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.ledger import read_events, read_lines
from plait.rounds.withheld import screened
from plait.wire.envelope import open_envelope, read_envelope
from tests.features.privacy.test_private_rounds import replayed as replayed_with_noise
from tests.features.trees.test_region import DEEP, TWO, KilledError, Tree, crowd, grow, resealed
from tests.plait.rounds.test_audit import replayed

__all__ = ["grow"]


class NoisedTree(Tree):
    """Of private clients."""

    screen = partial(screened, update_bytes=1000)

    @property
    def adder(self):
        return partial(ClippedAdder, privacy=self.federation.privacy)


class TreeOfRecords(Tree):
    """Of clients whose records are private."""

    screen = partial(screened, kept=KEPT_OF_RECORDS)


def private_tree(federate, grow, fake_model, shape, **more):
    privacy = ClientPrivacy(
        noise_multiplier=3.0, delta=1e-5, epsilon=None, clients=6, clip_norm=0.5, quantile=0.5, largest_step=0.2
    )
    plan = {"rounds": 2, "wire": "bf16", "privacy": privacy, "keep_updates": True, **more}
    return grow(federate(crowd(fake_model, 6), **plan), shape, NoisedTree)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [TWO, DEEP])
def test_noise_is_added_once_to_the_exact_sum_of_clipped_updates(federate, grow, fake_model, shape, monkeypatch):
    tree = private_tree(federate, grow, fake_model, shape)
    federation, below = tree.federation, {}
    finish = private_fold.PrivateMean.finish

    def seen(self):
        below[len(below) + 1] = self._sum.copy()
        return finish(self)

    monkeypatch.setattr(private_fold.PrivateMean, "finish", seen)
    state = federation.run()
    # The sum under the noise is that of all clients' updates, each of at most the radius, whatever region they are in.
    radius = federation.privacy.grid(federation.spec.layout.size).radius
    for number in (1, 2):
        expected = np.zeros(federation.spec.layout.size, np.int64)
        for region in tree.regions.values():
            for client in federation.models:
                update = region.directory.load_update(number, client)
                if update is None:
                    continue
                opened = open_envelope(update, layout=federation.spec.layout)
                digest = read_envelope(update, max_bytes=len(update)).payload_digest
                key = rounding_key(state.run_id, number, client, digest)
                clipped = clipped_to_grid(opened.delta.flat, clip_norm=0.5, radius=radius, key=key)
                assert np.sqrt(np.square(clipped.astype(float)).sum()) <= radius
                expected += clipped
        assert expected.any()
        assert np.array_equal(below[number], expected)
    assert check_privacy(read_events(federation.path / "ledger.jsonl")).charges == 2
    assert replayed_with_noise(federation) == 2
    # Nothing that was measured in training is said above, nor in a region's ledger.
    for path in (federation.path, *(region.directory.path for region in tree.regions.values())):
        told = [
            event
            for event in read_lines(path / "ledger.jsonl")
            if event["event"] in ("update_received", "region_summed")
        ]
        assert told
        assert not any({"train_loss", "tokens", "norms", "digest"} & {k for k, v in e.items() if v} for e in told)


@pytest.mark.slow
def test_a_region_of_a_private_run_that_is_killed_goes_on_to_the_same_sum(federate, grow, fake_model, monkeypatch):
    tree = private_tree(federate, grow, fake_model, TWO, rounds=1)
    sums, left = [], ["unsaved", "saved"]
    made = region_module.encode_sum

    def summed(part, layout):
        encoded = made(part, layout)
        sums.append(encoded.packed.payload)
        return encoded

    def saved(*args):
        if left and left[0] == "unsaved":
            raise KilledError(left.pop(0))
        save_checkpoint(*args)
        if left:
            raise KilledError(left.pop(0))

    monkeypatch.setattr(region_module, "encode_sum", summed)
    monkeypatch.setattr(region_module, "save_checkpoint", saved)
    for _ in range(3):
        with suppress(KilledError):
            tree.federation.run()
            break
        tree.restart()
    assert not left
    assert len(sums) == len(set(sums)) == 2
    assert check_privacy(read_events(tree.federation.path / "ledger.jsonl")).charges == 1


@pytest.mark.parametrize("scale", [1.5, 2.0**-18, 2.0**40], ids=["too long", "fractions", "far too long"])
def test_a_sum_that_no_clipped_updates_add_up_to_is_refused(federate, grow, fake_model, scale):
    shape = ((100,), (101, 102, 103, 104, 105))
    tree = private_tree(federate, grow, fake_model, shape, rounds=1, quorum=1)
    layout = tree.federation.spec.layout

    def lies(asked, reply):
        if asked.purpose is not Purpose.TRAIN or asked.client != "regions-0":
            return reply
        long = np.full(layout.size, scale)
        return resealed(reply, layout, lambda part, header: (part_of(long, int(part.weight)), header))

    tree.federation.channel.tamper = lies
    tree.federation.run()
    refused = tree.federation.of_kind("update_refused")
    assert [(event["client"], event["reason"]) for event in refused] == [("regions-0", "norm")]


@pytest.mark.slow
def test_private_records_keep_their_accounts_in_a_tree(federate, grow, fake_model):
    plan = {"rounds": 2, "wire": "1", "settings": {"record_delta": 1e-5, "record_noise": 1.0}}
    flat = federate(crowd(fake_model, 6), **plan)
    tree = grow(federate(crowd(fake_model, 6), keep_updates=True, **plan), TWO, TreeOfRecords)
    flat.run()
    tree.federation.run()
    spent, expected = (check_privacy(read_events(run.path / "ledger.jsonl")) for run in (tree.federation, flat))
    assert set(spent.by_client) == {"regions-0", "regions-1"}
    assert spent.epsilon == expected.epsilon
    assert tree.federation.of_kind("update_refused") == []
    assert [event["clients"] for event in tree.federation.of_kind("update_received")] == [2, 4, 2, 4]
    assert replayed(tree.federation) == 2
