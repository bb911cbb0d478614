from __future__ import annotations

from plait.data import Dataset, Record, RecordKind, histogram
from plait.data.records import OTHER


def texts(*columns: dict[str, str]) -> Dataset:
    return Dataset.of("toy", RecordKind.TEXT, [Record(text="x", columns=values) for values in columns])


def test_labels_are_counted_most_frequent_first() -> None:
    records = [Record(text="x", label=label) for label in ("b", "c", "a", "c")]
    dataset = Dataset.of("toy", RecordKind.LABEL, records)
    assert list(histogram(records, dataset).items()) == [("c", 2), ("a", 1), ("b", 1)]
    assert histogram(records[:1], dataset) == {"b": 1}


def test_without_labels_the_column_with_fewest_values_is_counted() -> None:
    dataset = texts(*({"path": str(n), "topic": str(n % 2), "day": str(n % 3)} for n in range(12)))
    assert histogram(dataset.records, dataset) == {"0": 6, "1": 6}
    assert histogram(dataset.records, dataset, besides="topic") == {"0": 4, "1": 4, "2": 4}


def test_the_column_that_says_nothing_new_is_counted_where_it_is_the_only_one() -> None:
    dataset = texts(*({"who": str(n % 2)} for n in range(4)))
    assert histogram(dataset.records[:1], dataset, besides="who") == {"0": 1}


def test_a_column_of_distinct_values_counts_nothing() -> None:
    dataset = texts(*({"path": str(n)} for n in range(12)))
    assert histogram(dataset.records, dataset) == {}


def test_rare_names_are_summed_up() -> None:
    dataset = texts(*({"n": str(n % 40)} for n in range(100)))
    counts = histogram(dataset.records, dataset)
    assert len(counts) == 33
    assert sum(counts.values()) == 100
    assert counts[OTHER] == 100 - sum(count for name, count in counts.items() if name != OTHER)


def test_long_names_and_lines_are_cut_so_that_any_column_can_travel():
    records = [
        Record(text="x", columns={"topic": topic}) for topic in ("a\nb", "n" * 500, "", "\N{GRINNING FACE}" * 99)
    ]
    counted = histogram(records * 2, Dataset.of("d", RecordKind.TEXT, records * 2))
    assert counted == {"(empty)": 2, "a b": 2, "n" * 39 + "…": 2, "\N{GRINNING FACE}" * 39 + "…": 2}
