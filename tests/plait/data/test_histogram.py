from dataclasses import replace

from plait.data import Dataset, Record, RecordKind, histogram
from plait.data.records import OTHER


def texts(*columns: dict[str, str]) -> Dataset:
    return Dataset.of("toy", RecordKind.TEXT, [Record(text="x", columns=values) for values in columns])


def test_without_labels_owners_are_counted_and_no_other_column():
    dataset = texts(*({"who": str(n % 2), "said": str(n % 3)} for n in range(12)))
    assert histogram(dataset.records, dataset) == {}
    assert histogram(dataset.records, dataset, column="who") == {"0": 6, "1": 6}
    assert histogram(dataset.records, replace(dataset, natural_column="who")) == {"0": 6, "1": 6}


def test_rare_names_are_summed_up():
    dataset = texts(*({"n": str(n % 40)} for n in range(100)))
    counts = histogram(dataset.records, dataset, column="n")
    assert len(counts) == 33
    assert sum(counts.values()) == 100
    assert counts[OTHER] == 100 - sum(count for name, count in counts.items() if name != OTHER)


def test_long_names_and_lines_are_cut_so_that_any_column_can_travel():
    records = [
        Record(text="x", columns={"topic": topic}) for topic in ("a\nb", "n" * 500, "", "\N{GRINNING FACE}" * 99)
    ]
    counted = histogram(records * 2, Dataset.of("d", RecordKind.TEXT, records * 2), column="topic")
    assert counted == {"(empty)": 2, "a b": 2, "n" * 39 + "…": 2, "\N{GRINNING FACE}" * 39 + "…": 2}
