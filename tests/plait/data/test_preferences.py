"""Preference pairs, from every shape of row."""

from collections.abc import Mapping

import pytest

from plait.data import Dataset, Message, Record, RecordKind, as_dataset
from plait.errors import DataError

Row = Mapping[str, object]
ASKED, GOOD, BAD = Message("user", "2 + 2?"), Message("assistant", "4"), Message("assistant", "5")
PAIR: Row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
TURNS: Row = {
    "prompt": [ASKED._asdict()],
    "chosen": [GOOD._asdict()],
    "rejected": [BAD._asdict()],
}
RECORD = Record(messages=(ASKED,), chosen=(GOOD,), rejected=(BAD,))


@pytest.mark.parametrize(
    ("row", "columns", "record"),
    [
        (PAIR, None, RECORD),
        (TURNS, None, RECORD),
        # A reply that repeats the conversation before it.
        ({**TURNS, "chosen": [ASKED._asdict(), GOOD._asdict()]}, None, RECORD),
        ({**PAIR, "messages": [{"role": "assistant", "content": "4"}], "source": "x"}, None,
         Record(messages=(ASKED,), chosen=(GOOD,), rejected=(BAD,),
                columns={"messages": '[{"content": "4", "role": "assistant"}]', "source": "x"})),
        ({"q": "2 + 2?", "chosen": "4", "worse": "5"}, "prompt=q,rejected=worse", RECORD),
        # A label of a reply is a column.
        ({"prompt": "2 + 2?", "completion": "4", "label": "sums"}, None,
         Record(prompt="2 + 2?", completion="4", columns={"label": "sums"})),
    ],
)  # fmt: skip
def test_a_row_becomes_a_pair(row, columns, record):
    found = as_dataset([row], columns=columns)
    assert found.records == (record,)
    assert (found.kind is RecordKind.PREFERENCE) == bool(record.chosen)


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({**PAIR, "rejected": "4"}, None, "the same reply as chosen and as rejected"),
        ({"prompt": "a", "chosen": "b"}, None, "has 'prompt' and 'chosen', expected .*'chosen' and 'rejected'"),
        ({**TURNS, "chosen": [ASKED._asdict()]}, None, "no assistant turn after the prompt in 'chosen'"),
        ({**TURNS, "prompt": []}, None, "an empty list as 'prompt'"),
    ],
)  # fmt: skip
def test_a_bad_pair_is_refused_in_one_line_with_its_place(row, columns, said):
    with pytest.raises(DataError, match=said) as raised:
        as_dataset([row], columns=columns)
    assert "record 1 of data 'data'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_reply_is_another_dataset():
    def fingerprint(*records: Record) -> str:
        return Dataset.of("pairs", RecordKind.PREFERENCE, records).fingerprint

    turned = Record(messages=(ASKED,), chosen=(BAD,), rejected=(GOOD,))
    moved = Record(messages=(ASKED,), chosen=(GOOD, BAD))
    assert len({fingerprint(RECORD), fingerprint(turned), fingerprint(moved)}) == 3
