import json
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation import Resizing
from plait.errors import PeerError
from plait.ledger.events import RoundFinished
from plait.rounds.run_state import (
    Ranks,
    Track,
    client_seed,
    initial_state,
    load_checkpoint,
    sample_cohort,
    save_checkpoint,
)

NAMES = [f"client-{number}" for number in range(20)]


def test_a_cohort_is_a_sorted_sample_decided_by_seed_and_round_and_not_by_the_order_of_names():
    assert sample_cohort(NAMES, 25, seed=1, round_number=1) == tuple(sorted(NAMES))
    cohort = sample_cohort(NAMES, 5, seed=1, round_number=1)
    assert list(cohort) == sorted(set(cohort) & set(NAMES))
    assert len(cohort) == 5
    assert cohort == sample_cohort(NAMES[::-1], 5, seed=1, round_number=1)
    assert len({sample_cohort(NAMES, 5, seed=1, round_number=number) for number in range(1, 20)}) > 15
    assert len({sample_cohort(NAMES, 5, seed=seed, round_number=1) for seed in range(1, 20)}) > 15


def test_client_seeds_differ_by_seed_round_and_client_and_fit_a_task():
    seeds = {client_seed(seed, number, name) for seed in range(5) for number in range(5) for name in NAMES}
    assert len(seeds) == 5 * 5 * len(NAMES)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert client_seed(1, 2, "bob") == client_seed(1, 2, "bob")


@pytest.fixture
def mixed(federate):
    return federate(ranks={"bob": 1}).ranks


def test_a_client_gets_the_largest_rank_that_it_can_carry(mixed):
    assert [mixed.track_for(max_rank) for max_rank in (0, 1, 2, 7)] == [0, 1, 0, 0]


def test_a_lower_rank_is_handed_the_best_product_where_the_rule_says_so(mixed):
    best = replace(mixed, resizing=Resizing.BEST)
    (wide,), (narrow,) = mixed.master.geometry.pairs, mixed.adapters[1].geometry.pairs
    master = mixed.master.initial
    u, s, vt = np.linalg.svd(wide.scale * wide.b_of(master.flat) @ wide.a_of(master.flat))
    flat = best.resized(master, 1).flat
    np.testing.assert_allclose(
        narrow.scale * narrow.b_of(flat) @ narrow.a_of(flat), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-5
    )


@pytest.fixture
def state(ranks):
    adapter = ranks.master.initial
    shadow = AdapterState(adapter.layout, adapter.flat + np.float32(1e-3))
    return replace(
        initial_state(b"r" * 16, ranks),
        round=1,
        tracks=(Track(shadow, b"p" * 32, b"sealed"),),
        held={"zoë/../x": b"h" * 32, "bob": b""},
        rule_memory={"turned": np.arange(3.0)},
        optimizer_memory={"first": np.ones(2, np.float32)},
        finished=RoundFinished(round=1, update_norm=0.1 + 0.2),
    )


def assert_same(left, right):
    for name in ("run_id", "round", "held", "finished"):
        assert getattr(left, name) == getattr(right, name)
    for mine, theirs in zip(left.tracks, right.tracks, strict=True):
        assert (mine.previous, mine.broadcast) == (theirs.previous, theirs.broadcast)
        np.testing.assert_array_equal(mine.shadow.flat, theirs.shadow.flat)
    arrays = [(state.rule_memory, state.optimizer_memory) for state in (left, right)]
    for mine, theirs in zip(*arrays, strict=True):
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name])
            assert array.dtype == theirs[name].dtype
    np.testing.assert_array_equal(left.adapter.flat, right.adapter.flat)


def test_a_state_survives(tmp_path, state, ranks):
    save_checkpoint(tmp_path, state)
    assert_same(load_checkpoint(tmp_path, ranks), state)


def test_only_the_newest_are_kept_and_what_a_killed_process_left_half_written_is_removed(tmp_path, state):
    (tmp_path / ".round-000001.abcdef").mkdir()
    for number in range(5):
        save_checkpoint(tmp_path, replace(state, round=number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000003", "round-000004"]


def remove_a_key(path):
    scalars = json.loads(path.read_text())
    del scalars["held"]
    path.write_text(json.dumps(scalars))


DAMAGE = {
    "no scalars": ("state.json", lambda path: path.unlink()),
    "another round": ("state.json", lambda path: path.write_text(path.read_text().replace('"round": 2', '"round": 3'))),
    "a key less": ("state.json", remove_a_key),
    "no adapters": ("adapters.safetensors", lambda path: path.unlink()),
    "broadcast rotten": ("broadcast-0.bin", lambda path: path.write_bytes(b"sealee")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, state, ranks, damage):
    name, spoil = DAMAGE[damage]
    save_checkpoint(tmp_path, state)
    save_checkpoint(tmp_path, replace(state, round=2))
    spoil(tmp_path / "round-000002" / name)
    assert_same(load_checkpoint(tmp_path, ranks), state)
    spoil_older = tmp_path / "round-000001" / "broadcast-0.bin"
    spoil_older.write_bytes(b"rot")
    with pytest.raises(PeerError, match=r"no usable checkpoint in .*: 'round-000001': digest of broadcast-0.bin is"):
        load_checkpoint(tmp_path, ranks)


def test_a_checkpoint_of_another_adapter_is_not_usable(tmp_path, state, ranks):
    save_checkpoint(tmp_path, state)
    other = replace(ranks.master, spec=replace(ranks.master.spec, layout=Layout.of({"other": [15]})))
    with pytest.raises(PeerError, match="no usable checkpoint"):
        load_checkpoint(tmp_path, Ranks((other,)))
