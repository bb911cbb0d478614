from __future__ import annotations

from plait.data import Dataset, Message, Record, RecordKind


def test_content_joins_all_text_of_any_kind() -> None:
    assert Record(text="one").content == "one"
    assert Record(prompt="one", completion="two").content == "one\ntwo"
    assert Record(messages=(Message("user", "one"), Message("assistant", "two"))).content == "one\ntwo"


def test_class_names_are_sorted_and_counted_once() -> None:
    records = [Record(text="x", label=label) for label in ("tea", "ale", "tea")]
    assert Dataset.of("drinks", RecordKind.LABEL, records).labels == ("ale", "tea")
    assert Dataset.of("drinks", RecordKind.TEXT, records).labels == ()


def test_columns_are_those_of_any_record_and_labels_count_as_one() -> None:
    records = [Record(text="x", label="ale", columns={"b": "1"}), Record(text="y", label="tea", columns={"a": "2"})]
    dataset = Dataset.of("drinks", RecordKind.LABEL, records)
    assert dataset.column_names == ("a", "b", "label")
    assert dataset.column("a") == (None, "2")
    assert dataset.column("label") == ("ale", "tea")
