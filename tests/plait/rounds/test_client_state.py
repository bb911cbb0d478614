import json

import numpy as np
import pytest

from plait.rounds.memory import FORMAT, ClientState, Kept, recall_state

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
        "double": np.array([[0.1], [1e300]]),
        "counts": np.array([7, -1], np.int64),
        "steps": np.array([2**32 - 1], np.uint32),
        "none": np.zeros((0, 3), np.float32),
    }
    tags = {"kind": "all", "said": "\u00e9 . \n"}
    data = state(Kept(), Kept(7, values, tags)).to_bytes()
    found = ClientState.from_bytes(data)
    assert (found.run_id, found.before.round, found.before.arrays, found.before.tags) == (RUN, 0, {}, {})
    assert (found.after.round, found.after.tags) == (7, tags)
    assert found.after.arrays.keys() == values.keys()
    for name, array in found.after.arrays.items():
        assert array.dtype == values[name].dtype
        assert array.shape == values[name].shape
        assert array.tobytes() == values[name].tobytes()
    assert found.to_bytes() == data


def test_the_file_is_one_that_safetensors_reads():
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load(state(kept(1, 1), kept(4, 4)).to_bytes())
    assert {name: list(array) for name, array in found.items()} == {"before.values": [1] * 3, "after.values": [4] * 3}


def test_the_numbers_are_all_but_a_few_hundred_bytes_of_it():
    size = 10_000
    moments = {name: np.ones(size, np.float32) for name in ("mean", "square")}
    assert 0 < len(state(Kept(1, moments), Kept(2, moments)).to_bytes()) - 4 * 4 * size < 600


@pytest.mark.parametrize("cut", [-1, -20, 100, 30])
def test_what_is_damaged_counts_as_lost(cut):
    data = state(kept(1, 1), kept(4, 4)).to_bytes()
    for damaged in (data[:cut], data + b"x"):
        assert ClientState.from_bytes(damaged) is None
        found = recall_state(Memory(damaged), "some", RUN)
        assert (found.run_id, found.after.round, found.after.arrays) == (RUN, 0, {})


def test_what_is_of_another_run_counts_as_lost():
    data = state(kept(1, 1), kept(4, 4)).to_bytes()
    assert recall_state(Memory(data), "some", RUN).after.round == 4
    assert recall_state(Memory(data), "some", b"s" * 16).after.round == 0


def test_state_of_another_format_counts_as_lost():
    later = json.dumps({"__metadata__": {"format": FORMAT[:-1] + "2", "run": RUN.hex(), "before.round": "0",
                                         "after.round": "0"}}, separators=(",", ":")).encode()  # fmt: skip
    assert ClientState.from_bytes(len(later).to_bytes(8, "little") + later) is None


def test_a_vector_is_had_only_in_its_own_size_and_kind():
    found = Kept(arrays={"values": np.ones(3, np.float32), "counts": np.ones(3, np.int64)})
    assert list(found.vector("values", 3)) == [1, 1, 1]
    assert [found.vector(name, size) for name, size in (("values", 4), ("counts", 3), ("other", 3))] == [None] * 3


class Memory:
    def __init__(self, data):
        self.data = data

    def load(self, key):
        return self.data

    def save(self, key, data):
        self.data = data
