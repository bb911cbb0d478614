import json
from pathlib import Path

import pytest

from plait.data import Message, Record, RecordKind, as_dataset
from plait.errors import DataError

SECRET = "the treasure lies under the oak"


def write(path: Path, *lines: object) -> Path:
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("line", "kind", "record"),
    [
        ({"text": "a"}, RecordKind.TEXT, Record(text="a")),
        ({"prompt": "a", "completion": "b"}, RecordKind.PROMPT, Record(prompt="a", completion="b")),
        ({"text": "a", "label": 3}, RecordKind.LABEL, Record(text="a", label="3")),
        ({"text": "a", "label": True}, RecordKind.LABEL, Record(text="a", label="true")),
        ({"messages": TURNS}, RecordKind.CHAT, Record(messages=tuple(Message(**turn) for turn in TURNS))),
    ],
)
def test_each_shape_becomes_its_kind(tmp_path, line, kind, record):
    dataset = as_dataset(write(tmp_path / "mine.jsonl", line))
    assert (dataset.name, dataset.kind, dataset.records) == ("mine", kind, (record,))
    assert dataset.labels == ((record.label,) if kind is RecordKind.LABEL else ())


def test_whatever_else_a_line_has_becomes_a_column(tmp_path):
    line = {"text": "a", "who": "ann", "year": 1999, "ok": False, "tags": ["x"], "none": None}
    dataset = as_dataset(write(tmp_path / "mine.jsonl", line))
    assert dataset.records[0].columns == {"who": "ann", "year": "1999", "ok": "false", "tags": '["x"]'}


def test_byte_order_mark_and_blank_lines_are_skipped(tmp_path):
    for first in (b"\xef\xbb\xbf\n", b"\xef\xbb\xbf"):
        path = write(tmp_path / "mine.jsonl", first + b'{"text": "a"}\r', b"  ", b"", b'{"text": "b"}')
        assert [record.text for record in as_dataset(path).records] == ["a", "b"]


GOOD = {"text": SECRET}
REFUSED = {
    "malformed JSON": ([GOOD, b'{"text": "the treasure'], "line 2 of 'mine.jsonl' is not JSON: "),
    "numbers count blank lines": ([GOOD, b"", b"oops"], "line 3 of 'mine.jsonl' is not JSON: "),
    "too deep a nesting": ([b"[" * 100_000], "is not readable JSON"),
    "not an object": ([[SECRET]], "line 1 of 'mine.jsonl' is a list, expected an object"),
    "not UTF-8": ([GOOD, b'{"text": "\xff"}'], "line 2 of 'mine.jsonl' is not UTF-8: byte 11 is 0xff"),
    "no known keys": ([{"txt": SECRET, "who": "a"}], "has 'txt' and 'who', expected 'text', or 'prompt' and"),
    "another kind": ([GOOD, {"text": SECRET, "label": "x"}], "has 'text' and 'label', expected 'text' as on line 1"),
    "text of a wrong type": ([{"text": 3}], "has a number as 'text', expected a string"),
    "empty text": ([{"text": " \n"}], "has an empty 'text', expected some text"),
    "unknown role": ([{"messages": [{"role": "bot", "content": SECRET}]}], "has 'bot' as role of message 1, expected"),
    "content of a wrong type": (
        [{"messages": [{"role": "user", "content": [SECRET]}]}],
        "has parts in message 1 that are not text",
    ),
    "nothing to learn": ([{"messages": [{"role": "user", "content": SECRET}]}], "has no assistant turn"),
    "half a surrogate pair": ([b'{"text": "\\ud800"}'], "has half a surrogate pair"),
    "empty file": ([b""], "'mine.jsonl' holds no record, expected one JSON object per line"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_line_is_refused_by_number_and_without_its_text(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        as_dataset(write(Path("mine.jsonl"), *lines))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "treasure" not in str(caught.value)


def test_a_missing_file_is_refused_and_the_nearest_one_named(tmp_path):
    (tmp_path / "letters.jsonl").touch()
    with pytest.raises(DataError, match=r"leters.jsonl': No such file or directory; did you mean 'letters\.jsonl'\?"):
        as_dataset(tmp_path / "leters.jsonl")
