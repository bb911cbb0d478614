"""A user's own partition scheme."""

import pytest

from plait.data import Dataset, Record, RecordKind
from plait.errors import ConfigError
from plait.plugins import Kind, reference
from plait.simulation.partition import partition
from plait.simulation.scheme import parse_partition

DATA = Dataset.of("lines", RecordKind.TEXT, [Record(text="x" * (number + 1)) for number in range(10)])


def split(made, options="", clients=2):
    text = reference(Kind.PARTITION, made)
    scheme = parse_partition(f"{text}:{options}" if options else text)
    assert parse_partition(str(scheme)).argument == scheme.argument
    return partition(DATA, scheme, clients=clients, seed=3)


def test_a_function_gives_the_indices_of_each_client_and_has_options():
    def by_size(dataset, clients, seed, *, cut: int = 5):
        assert (dataset, clients, seed) == (DATA, 2, 3)
        return [[k for k, each in enumerate(dataset.records) if (len(each.text) > cut) == long] for long in (0, 1)]

    for options, first in (("", 5), ("cut=2", 2)):
        dealt = split(by_size, options)
        assert [len(share.records) for share in dealt.shares] == [first, 10 - first]
        assert [share.name for share in dealt.shares] == ["client-00", "client-01"]


def test_a_mapping_names_the_clients_and_what_is_left_out_is_noted():
    dealt = split(lambda dataset, clients, seed: {"ada": [3, 1], "bob": [2]})
    assert {share.name: [len(each.text) for each in share.records] for share in dealt.shares} == {
        "ada": [2, 4],
        "bob": [3],
    }
    assert "leaves 7 of 10 records to no client" in dealt.notes[0]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda d, c, s: [[0], [0]], "a record to two clients"),
        (lambda d, c, s: [[0], [10]], "expected 0 to 9"),
        (lambda d, c, s: [[0], [-1]], "expected 0 to 9"),
        (lambda d, c, s: [[0]], "gave 1 shares, expected clients = 2"),
        (lambda d, c, s: [[0], []], "'client-01' gets no record"),
        (lambda d, c, s: [[0], [0.5]], "TypeError"),
        (lambda d, c, s: 1 / 0, r"ZeroDivisionError: division by zero \(.*test_own_partition\.py, line \d+\)"),
        (lambda d: [], r"expected \(dataset, clients, seed\)"),
    ],
)
def test_what_is_no_partition_is_refused(made, said):
    with pytest.raises(ConfigError, match=said):
        split(made)
