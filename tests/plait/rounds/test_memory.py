"""What a client keeps between tasks, and the secret that decides its batches and rounding."""

import stat
from dataclasses import replace

import numpy as np
import pytest

from plait.rounds.data_journal import ClientSecret
from plait.rounds.memory import (
    IRREPLACEABLE,
    MUST_LAST,
    ClientState,
    DiskMemory,
    Kept,
    keep_only_what_lasts,
    recall_state,
)
from tests.commands import killed_after
from tests.plait.rounds.conftest import DictMemory

RUN = b"r" * 16


def kept(number, value):
    return Kept(number, {"values": np.full(3, value, np.float32)}, {"kind": "some"})


def state(before, after):
    return ClientState(RUN, before, after)


def test_a_round_starts_from_what_the_round_before_left_and_again_from_the_same():
    both = state(kept(1, 1), kept(4, 4))
    assert both.given_in(5) is both.after
    assert both.given_in(4) is both.before
    assert both.given_in(2) is both.before


def test_it_survives_being_written_down():
    values = {
        "single": np.array([1.5, -0.0], np.float32),
        "steps": np.array([2**32 - 1], np.uint32),
        "none": np.zeros((0, 3), np.float32),
    }
    tags = {"kind": "all", "said": "\u00e9 . \n"}
    data = state(Kept(), Kept(7, values, tags)).to_bytes()
    found = ClientState.from_bytes(data)
    assert (found.run_id, found.before.round, found.before.arrays, found.before.tags) == (RUN, 0, {}, {})
    assert (found.after.round, found.after.tags) == (7, tags)
    for name, array in values.items():
        np.testing.assert_array_equal(found.after.arrays[name], array, strict=True)
    assert found.to_bytes() == data


@pytest.mark.parametrize("cut", [-1, 30])
def test_what_is_damaged_or_of_another_run_counts_as_lost(cut):
    data = state(kept(1, 1), kept(4, 4)).to_bytes()
    for damaged in (data[:cut], data + b"x"):
        assert ClientState.from_bytes(damaged) is None
        found = recall_state(DictMemory(some=damaged), "some", RUN)
        assert (found.run_id, found.after.round, found.after.arrays) == (RUN, 0, {})
    assert recall_state(DictMemory(some=data), "some", RUN).after.round == 4
    assert recall_state(DictMemory(some=data), "some", b"s" * 16).after.round == 0


def test_what_was_kept_is_there_for_another_process(tmp_path):
    folder = tmp_path / "run" / "ada"
    for data in (b"one", b"", bytes(range(256)) * 100):
        DiskMemory(folder).save("residual", data)
        assert DiskMemory(folder).load("residual") == data
    assert DiskMemory(folder).load("adapter") is None
    assert DiskMemory(tmp_path / "run" / "bob").load("residual") is None


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_whole_bytes(tmp_path):
    code = (
        "import sys; from pathlib import Path; from plait.rounds.memory import DiskMemory\n"
        "memory, number = DiskMemory(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    number += 1; memory.save('residual', bytes([number % 251]) * 200_000)\n"
        "    number == 3 and print('going', flush=True)\n"
    )
    killed_after(1, code, tmp_path)
    kept = DiskMemory(tmp_path).load("residual")
    assert kept is not None
    assert kept == bytes([kept[0]]) * 200_000


def test_of_the_only_copies_the_own_adapter_alone_outlasts_a_run(tmp_path):
    for key in (*IRREPLACEABLE, "adapter", "spec"):
        before, after = (Kept(number, {"values": np.full(999, number, np.float32)}) for number in (4, 5))
        (tmp_path / key).write_bytes(ClientState(RUN, before, after).to_bytes())
    keep_only_what_lasts(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "own", "spec"]
    left = ClientState.from_bytes((tmp_path / "own").read_bytes())
    assert (left.run_id, left.after.round, left.before.arrays) == (RUN, 5, {})
    assert list(left.after.arrays["values"]) == [5] * 999
    assert (tmp_path / "own").stat().st_size < 4 * 999 + 400
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o600
    content = (tmp_path / "own").read_bytes()
    keep_only_what_lasts(tmp_path)
    assert (tmp_path / "own").read_bytes() == content


def test_an_account_of_private_records_outlives_a_run_that_its_server_calls_over(tmp_path):
    for key in ("record-privacy", "moments"):
        (tmp_path / key).write_bytes(b"x")
    keep_only_what_lasts(tmp_path, besides=MUST_LAST)
    assert [path.name for path in tmp_path.iterdir()] == ["record-privacy"]
    # In a simulation, whose operator says so himself, its secret is of no further use to anybody.
    keep_only_what_lasts(tmp_path)
    assert not [*tmp_path.iterdir()]


RECEIVED = b"r" * 32


def test_a_secret_is_drawn_once_for_a_run_and_kept():
    memory = DictMemory()
    first = ClientSecret.of(memory)
    assert ClientSecret.of(memory) == first
    assert ClientSecret.of(DictMemory()) != first
    assert set(memory) <= IRREPLACEABLE
    assert first.value.hex() not in repr(first)


def test_batches_follow_from_it_and_not_from_the_servers_seed(federate):
    masked = replace(federate().plan.settings, secure_aggregation=True, round=3, seed=9)
    secret = ClientSecret.of(DictMemory())
    own = secret.seeded(masked)
    assert own == secret.seeded(replace(masked, seed=10))
    others = [ClientSecret.of(DictMemory()).seeded(masked), secret.seeded(replace(masked, round=4))]
    assert len({each.seed for each in (masked, own, *others)}) == 4
    assert replace(own, seed=masked.seed) == masked


def test_rounding_differs_by_run_round_and_adapter_alone():
    secret = ClientSecret.of(DictMemory())
    keys = {
        secret.rounding(3, RECEIVED),
        secret.rounding(4, RECEIVED),
        secret.rounding(3, bytes(32)),
        ClientSecret.of(DictMemory()).rounding(3, RECEIVED),
    }
    assert len(keys) == 4
    assert secret.rounding(3, RECEIVED) in keys
