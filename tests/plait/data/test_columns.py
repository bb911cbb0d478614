"""Which columns hold what: as named, or recognised where that is certain."""

import re
from collections.abc import Mapping

import pytest

from plait.data import Message, Record, as_dataset
from plait.errors import ConfigError, DataError

Row = Mapping[str, object]
ALPACA: Row = {"instruction": "Add", "input": "1 and 2", "output": "3"}
SHAREGPT: Row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "x"}


@pytest.mark.parametrize(
    ("row", "columns", "record"),
    [
        ({"body": "a", "author": "b"}, "text=body,client=author", Record(text="a", columns={"author": "b"})),
        ({"body": "a", "author": "b"}, {"text": "body", "client": "author"}, Record(text="a", columns={"author": "b"})),
        # A label under another name stays a column, to partition by.
        ({"body": "a", "topic": "b"}, "text=body, label=topic", Record(text="a", label="b", columns={"topic": "b"})),
        # What is named is all that is taken.
        ({"text": "a", "label": "b"}, "text=text", Record(text="a", columns={"label": "b"})),
        ({"q": "a", "completion": "b"}, "prompt=q", Record(prompt="a", completion="b")),
        ({"q": "a", "more": "b", "a": "c"}, "prompt=q+more,completion=a", Record(prompt="a\n\nb", completion="c")),
        ({"q": "a", "more": None, "a": "c"}, "prompt=q+more,completion=a", Record(prompt="a", completion="c")),
        (ALPACA, None, Record(prompt="Add\n\n1 and 2", completion="3")),
        ({**ALPACA, "input": ""}, "", Record(prompt="Add", completion="3")),
        (
            SHAREGPT,
            None,
            Record(messages=(Message("user", "Hi"), Message("assistant", "Hello")), columns={"id": "x"}),
        ),
    ],
)  # fmt: skip
def test_columns_become_the_fields_that_they_are_named_for(row, columns, record):
    assert as_dataset([row], columns=columns).records == (record,)


def test_the_client_column_is_the_natural_one():
    rows = [{"text": "a", "author": "b"}]
    assert as_dataset(rows).natural_column == ""
    assert as_dataset(rows, columns="client=author").natural_column == "author"
    assert as_dataset(as_dataset(rows), columns="client=author").natural_column == "author"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("body", "columns has 'body', expected FIELD=COLUMN, such as text=body,client=author, with the fields"),
        ("txt=body", "columns names the field 'txt', expected FIELD=COLUMN.*; did you mean 'text'?"),
        ("text=a,text=b", r"columns names 'text' twice, expected it once; join columns as text=A\+B"),
        ("text=", "columns has '' for 'text', expected the name of a column"),
        ("text=a,prompt=b", "columns names text and prompt, expected the fields of one kind of record"),
    ],
)
def test_a_bad_column_map_is_refused_before_anything_is_read(columns, message):
    with pytest.raises(ConfigError, match=message):
        as_dataset("none.jsonl", columns=columns)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"question": "a", "answer": "b", "id": 3}, "--columns prompt=question,completion=answer"),
        ({"title": "a", "stuff": "much longer"}, "--columns text=stuff"),
        ({"the body": 3, "n": 4}, "--columns text=COLUMN"),
        ({"Ärztlicher Befund": "a"}, "--columns 'text=Ärztlicher Befund'"),
        # Both of two formats: neither is certain.
        ({**ALPACA, **SHAREGPT}, "--columns messages=conversations"),
    ],
)
def test_unknown_columns_are_named_with_those_that_would_do(row, advice):
    with pytest.raises(DataError) as caught:
        as_dataset([row])
    said = str(caught.value)
    assert said.startswith("record 1 of data 'data' has ")
    assert all(f"'{name}'" in said for name in row)
    assert said.endswith(f"; if they have other names, give {advice}")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"body": "a"}, {"text": "b"}], "text=body", "record 2 of data 'data' has 'text', expected 'body'"),
        ([{"q": None, "b": "x", "c": "c"}], "prompt=q+b,completion=c", "has null as 'q', expected a string"),
        ([SHAREGPT, {"conversations": [{"from": "critic", "value": "x"}]}], "", "has 'critic' as role of"),
        ([ALPACA, {"text": "a"}], "", "record 2 of .* has 'text', expected 'instruction' and 'output' as on record 1"),
    ],
)
def test_a_record_without_the_columns_is_refused(rows, columns, message):
    with pytest.raises(DataError, match=message):
        as_dataset(rows, columns=columns)


def test_a_typo_in_a_column_is_told_with_the_nearest_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Ticket Text,Owner\na,x\nb,y\n")
    said = (
        f"'{path}' has no column 'ticket text', which --columns names; it has 'Ticket Text' and 'Owner'; did you "
        "mean 'Ticket Text'?"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        as_dataset(path, columns="text=ticket text")
    assert len(as_dataset(path, columns="text=Ticket Text").records) == 2
