"""The held-out split of the data, partitioned as the data are."""

from __future__ import annotations

import numpy as np

from plait.data import Dataset
from plait.data.records import Record, RecordKind
from plait.simulation.partition import Partition, by_value, partition
from plait.simulation.scheme import parse_partition
from plait.simulation.shares import held_out_by_share


def split_over(scheme: str, dataset: Dataset, clients: int) -> Partition:
    return partition(dataset, parse_partition(scheme), clients=clients, seed=0)


def records(owners: str) -> list[Record]:
    return [Record(text=f"{owner} {number}", columns={"who": owner}) for number, owner in enumerate(owners)]


def test_a_client_gets_the_records_with_its_own_value() -> None:
    assert by_value(["b", None, "a", "c", "b"], ["a", "b"]) == [[2], [0, 4]]
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("bab"))
    parts = split_over("natural:who", dataset, 2)
    assert [[record.text for record in share.held_out] for share in parts.shares] == [["a 1"], ["b 0", "b 2"]]
    assert parts.notes == ()


def test_a_client_without_a_record_there_holds_out_the_end_of_its_own_and_is_named() -> None:
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("bb"))
    parts = split_over("natural:who", dataset, 2)
    assert [len(share.held_out) for share in parts.shares] == [0, 2]
    assert parts.notes == ("the held-out split has no record of a: plait holds out their last ones",)


def test_a_held_out_split_of_others_is_shared_out() -> None:
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("ccccc"))
    parts = split_over("natural:who", dataset, 2)
    assert [len(share.held_out) for share in parts.shares] == [2, 3]
    assert parts.notes == ("column 'who' names no client in the held-out split, which is shared out among all",)


def test_parts_follow_the_classes_of_each_client() -> None:
    trained = np.array([[30, 0], [10, 20], [0, 20]])
    groups = np.array([0] * 8 + [1] * 4)
    parts = held_out_by_share(groups, trained)
    assert [[int((groups[part] == group).sum()) for group in (0, 1)] for part in parts] == [[6, 0], [2, 2], [0, 2]]
    # Of a class that no client trains on, each gets its share of all.
    untrained = held_out_by_share(np.zeros(9, np.int64), np.array([[0, 30], [0, 60]]))
    assert [len(part) for part in untrained] == [3, 6]
