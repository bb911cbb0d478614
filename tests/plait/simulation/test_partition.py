from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset as Table
from flwr_datasets.partitioner import IidPartitioner

from plait.data import Dataset, Record, RecordKind
from plait.errors import ConfigError
from plait.plugins import Kind, reference
from plait.simulation.partition import Partition, by_value, partition
from plait.simulation.scheme import default_scheme, parse_partition
from plait.simulation.shares import held_out_by_share

CLASSES = ("ale", "mead", "stout", "tea")


def labelled(count: int = 400) -> Dataset:
    """Records sorted by class, as data often comes."""
    records = [Record(text=f"text {n}", label=CLASSES[n * len(CLASSES) // count]) for n in range(count)]
    return Dataset.of("drinks", RecordKind.LABEL, records)


def authored(**texts: Sequence[str]) -> Dataset:
    """One record for each text, column `author` the keyword; texts of different authors take turns."""
    count = max(len(own) for own in texts.values())
    return Dataset.of(
        "letters",
        RecordKind.TEXT,
        [
            Record(text=own[n], columns={"author": author})
            for n in range(count)
            for author, own in texts.items()
            if n < len(own)
        ],
    )


def split(dataset: Dataset, text: str, *, clients: int = 4, seed: int = 0) -> Partition:
    return partition(dataset, parse_partition(text), clients=clients, seed=seed)


def label_skew(parts: Partition) -> float:
    """Mean total variation distance between a client's class shares and the uniform ones of `labelled`."""
    distances: list[float] = []
    for share in parts.shares:
        counts = np.array([sum(record.label == name for record in share.records) for name in CLASSES])
        distances.append(0.5 * float(np.abs(counts / counts.sum() - 1 / len(CLASSES)).sum()))
    return float(np.mean(distances))


COMPLETE = ["iid", "dirichlet:0.3", "pathological:2", "shard:2", "linear", "square", "exponential"]


@pytest.mark.parametrize("text", COMPLETE)
def test_every_record_goes_to_one_client_in_the_datasets_order(text):
    dataset = labelled()
    place = {record.text: index for index, record in enumerate(dataset.records)}
    parts = split(dataset, text)
    places = [[place[record.text] for record in share.records] for share in parts.shares]
    assert sorted(index for own in places for index in own) == list(range(len(dataset.records)))
    assert all(own == sorted(own) for own in places)
    assert [share.name for share in parts.shares] == ["client-00", "client-01", "client-02", "client-03"]
    assert parts.notes == ()


def test_iid_shares_are_those_of_flwr_datasets():
    dataset, clients = labelled(), 7
    order = np.random.default_rng([3, *b"order"]).permutation(len(dataset.records))
    theirs = IidPartitioner(clients)
    theirs.dataset = Table.from_dict({"index": order.tolist()})
    wanted = [{dataset.records[i].text for i in theirs.load_partition(k)["index"]} for k in range(clients)]
    ours = split(dataset, "iid", clients=clients, seed=3)
    assert [{record.text for record in share.records} for share in ours.shares] == wanted


@pytest.mark.parametrize("text", COMPLETE)
def test_the_seed_decides_and_nothing_else_does(text):
    dataset = labelled()
    first = split(dataset, text, seed=7)
    np.random.seed(0)  # noqa: NPY002 (the global state must not matter)
    assert split(dataset, text, seed=7) == first
    assert split(dataset, text, seed=8) != first


@pytest.mark.slow
def test_label_skew_grows_as_alpha_falls():
    skews = [
        np.mean([label_skew(split(labelled(), f"dirichlet:{alpha}", seed=seed)) for seed in range(4)])
        for alpha in (100, 1, 0.1)
    ]
    assert all(more > less + 0.1 for less, more in pairwise(skews))


def test_pathological_gives_each_client_so_many_classes():
    for share in split(labelled(), "pathological:2").shares:
        assert len({record.label for record in share.records}) == 2


def test_shards_are_of_equal_size_and_the_remainder_is_noted():
    parts = split(labelled(403), "shard:2")
    assert [len(share.records) for share in parts.shares] == [100] * 4
    assert parts.notes == ("shard:2 leaves 3 of 403 records to no client",)
    assert all(len({record.label for record in share.records}) <= 4 for share in parts.shares)
    assert label_skew(parts) > 0.4


@pytest.mark.parametrize(
    ("text", "weights"),
    [("linear", np.arange(1, 5)), ("square", np.arange(1, 5) ** 2), ("exponential", np.exp(np.arange(1, 5)))],
)
def test_quantity_skew_follows_its_law(text, weights):
    sizes = np.array([len(share.records) for share in split(labelled(), text).shares])
    expected = 400 * weights / weights.sum()
    # All but the last are rounded down; the last takes what is left.
    assert list(sizes[:-1]) == list(np.floor(expected[:-1]).astype(int))
    assert sizes.sum() == 400


def test_each_value_of_a_natural_column_is_a_client():
    parts = split(authored(bob=["a", "b"], ann=["c"]), "natural:author", clients=2)
    assert {share.name: [record.text for record in share.records] for share in parts.shares} == {
        "ann": ["c"],
        "bob": ["a", "b"],
    }
    assert parts.notes == ()


def test_the_values_with_most_text_take_part():
    parts = split(authored(many=["a"] * 9, long=["a" * 50], tiny=["a"]), "natural:author", clients=2)
    assert [share.name for share in parts.shares] == ["long", "many"]
    assert parts.notes == (
        "column 'author' has 3 distinct values; the 2 with most text take part, 98% of all characters",
    )


def test_a_column_of_fewer_values_gives_fewer_clients():
    parts = split(LETTERS, "natural:author", clients=3)
    assert [share.name for share in parts.shares] == ["ann", "bob"]
    assert parts.notes == ("column 'author' has 2 distinct values: 2 clients, not 3",)


def test_client_names_are_safe_short_and_unique():
    values = ["../../etc/x", "Ann", "ann", "日本", "x" * 100, "x" * 101, "a b\nc"]
    records = [Record(text="x", columns={"who": value}) for value in values]
    parts = split(Dataset.of("toy", RecordKind.TEXT, records), "natural:who", clients=len(values))
    given = {share.records[0].columns["who"]: share.name for share in parts.shares}
    assert given == {
        "../../etc/x": "etc-x",
        "Ann": "Ann",
        "ann": "ann-2",
        "日本": "日本",
        "x" * 100: "x" * 64,
        "x" * 101: "x" * 62 + "-2",
        "a b\nc": "a-b-c",
    }


LETTERS = authored(ann=["a 1"] * 4, bob=["b 2"] * 4)


@pytest.mark.parametrize(
    ("dataset", "text", "clients", "message"),
    [
        (LETTERS, "natural:autor", 3, r"no column 'autor', expected one of: author; did you mean 'author'\?"),
        (LETTERS, "dirichlet:0.5", 3, "data 'letters' has no labels; expected 'text' and 'label'"),
        (labelled(), "iid", 401, "data 'drinks' has 400 records, expected at least clients = 401"),
        (labelled(), "pathological:5", 4, "partition is 'pathological:5', expected at most the 4 classes of the data"),
        (labelled(), "pathological:2", 400, "pathological:2 cannot split 400 records over 400 clients"),
        (labelled(), "dirichlet:0.001", 50, "splits 400 records over 50 clients and some get under 2, expected"),
        (
            Dataset.of("toy", RecordKind.TEXT, [*LETTERS.records, Record(text="y")]), "natural:author", 2,
            "column 'author' is missing in 1 of 9 records, expected in all",
        ),
    ],
)  # fmt: skip
def test_what_the_data_does_not_allow_is_refused(dataset, text, clients, message):
    with pytest.raises(ConfigError, match=message):
        split(dataset, text, clients=clients)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diriclet:0.5", r"expected one of iid, .*; did you mean 'dirichlet'\?"),
        ("natural", "expected the name of a column: natural:COLUMN"),
        ("dirichlet:x", "partition is 'dirichlet:x', expected a number above 0, at most 1000000: dirichlet:ALPHA"),
        ("pathological:" + "9" * 5000, "expected a whole number above 0"),
        ("iid:3", "partition is 'iid:3', but iid takes no argument"),
    ],
)
def test_an_impossible_scheme_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_partition(text)


def test_the_default_fits_the_data():
    texts = authored(ann=["a"])
    assert str(default_scheme(texts)) == "iid"
    assert str(default_scheme(labelled())) == "dirichlet:0.5"
    named = Dataset.of("letters", RecordKind.TEXT, texts.records, natural_column="author")
    assert str(default_scheme(named)) == "natural:author"


def records(owners: str) -> list[Record]:
    return [Record(text=f"{owner} {number}", columns={"who": owner}) for number, owner in enumerate(owners)]


def test_a_client_gets_the_records_with_its_own_value():
    assert by_value(["b", None, "a", "c", "b"], ["a", "b"]) == [[2], [0, 4]]
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("bab"))
    parts = split(dataset, "natural:who", clients=2)
    assert [[record.text for record in share.held_out] for share in parts.shares] == [["a 1"], ["b 0", "b 2"]]
    assert parts.notes == ()


def test_a_client_without_a_record_there_holds_out_the_end_of_its_own_and_is_named():
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("bb"))
    parts = split(dataset, "natural:who", clients=2)
    assert [len(share.held_out) for share in parts.shares] == [0, 2]
    assert parts.notes == ("the held-out split has no record of a: plait holds out their last ones",)


def test_a_held_out_split_of_others_is_shared_out():
    dataset = Dataset.of("d", RecordKind.TEXT, records("aabbb"), held_out=records("ccccc"))
    parts = split(dataset, "natural:who", clients=2)
    assert [len(share.held_out) for share in parts.shares] == [2, 3]
    assert parts.notes == ("column 'who' names no client in the held-out split, which is shared out among all",)


def test_parts_follow_the_classes_of_each_client():
    trained = np.array([[30, 0], [10, 20], [0, 20]])
    groups = np.array([0] * 8 + [1] * 4)
    parts = held_out_by_share(groups, trained)
    assert [[int((groups[part] == group).sum()) for group in (0, 1)] for part in parts] == [[6, 0], [2, 2], [0, 2]]
    # Of a class that no client trains on, each gets its share of all.
    untrained = held_out_by_share(np.zeros(9, np.int64), np.array([[0, 30], [0, 60]]))
    assert [len(part) for part in untrained] == [3, 6]


LINES = Dataset.of("lines", RecordKind.TEXT, [Record(text="x" * (number + 1)) for number in range(10)])


def by_own(made, options="", clients=2):
    text = reference(Kind.PARTITION, made)
    scheme = parse_partition(f"{text}:{options}" if options else text)
    assert parse_partition(str(scheme)).argument == scheme.argument
    return partition(LINES, scheme, clients=clients, seed=3)


def test_a_function_gives_the_indices_of_each_client_and_has_options():
    def by_size(dataset, clients, seed, *, cut: int = 5):
        assert (dataset, clients, seed) == (LINES, 2, 3)
        return [[k for k, each in enumerate(dataset.records) if (len(each.text) > cut) == long] for long in (0, 1)]

    for options, first in (("", 5), ("cut=2", 2)):
        dealt = by_own(by_size, options)
        assert [len(share.records) for share in dealt.shares] == [first, 10 - first]
        assert [share.name for share in dealt.shares] == ["client-00", "client-01"]


def test_a_mapping_names_the_clients_and_what_is_left_out_is_noted():
    dealt = by_own(lambda dataset, clients, seed: {"ada": [3, 1], "bob": [2]})
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
        (lambda d, c, s: 1 / 0, r"ZeroDivisionError: division by zero \(.*test_partition\.py, line \d+\)"),
        (lambda d: [], r"expected \(dataset, clients, seed\)"),
    ],
)
def test_what_is_no_partition_is_refused(made, said):
    with pytest.raises(ConfigError, match=said):
        by_own(made)
