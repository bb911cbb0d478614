"""What is held out: by group, by document, or the end; and never what training text repeats."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from plait.data import Record
from plait.errors import DataError, TooLittleDataError
from plait.training.examples import IGNORED, Example, Split
from plait.training.holding_out import WINDOW, HoldingOut, place_of, repeats

NOTES = HoldingOut("site", seq_len=64, fraction=0.1, most=10**6, column="patient", keeps_repeated=True)
TEXTS = HoldingOut("site", seq_len=64, fraction=0.1, most=10**6, packs=True)


def notes(*, persons: int = 120, each: int = 5, sites: int = 3) -> list[list[Record]]:
    """Notes by site; every third person has notes at two of them."""
    found: list[list[Record]] = [[] for _ in range(sites)]
    for person in range(persons):
        for number in range(each):
            site = (person + (number % 2 if person % 3 == 0 else 0)) % sites
            text = f"note {number} of {person} " + str(random.Random(f"{person} {number}").random())
            found[site].append(Record(text=text, columns={"patient": f"p{person}"}))
    return found


def one_each(records: Sequence[Record]) -> list[Example]:
    rows = [np.frombuffer(record.text.encode(), np.uint8).astype(np.int32) for record in records]
    return [Example(row, row, record=place) for place, row in enumerate(rows)]


def packed(records: Sequence[Record]) -> list[Example]:
    stream = np.concatenate([each.tokens for each in one_each(records)] or [np.empty(0, np.int32)])
    ends = np.cumsum([len(record.text.encode()) for record in records])
    starts = range(0, len(stream) - 63, 64)
    rows = [(stream[start : start + 64], int(np.searchsorted(ends, start, side="right"))) for start in starts]
    return [Example(row, row, record=place) for row, place in rows]


def persons_of(split: Split, records: Sequence[Record]) -> tuple[set[str], set[str]]:
    train, held_out = (
        {records[each.record].columns["patient"] for each in part} for part in (split.train, split.held_out)
    )
    return train, held_out


def test_no_person_is_on_both_sides_at_any_site_and_a_tenth_is_held_out():
    train, held_out, count = set[str](), set[str](), 0
    for records in notes():
        split = NOTES.split(records, (), one_each)
        here = persons_of(split, records)
        train, held_out, count = train | here[0], held_out | here[1], count + len(split.held_out)
        assert len(split.groups) == len(split.train)
        assert len(set(split.clusters)) == len(here[1])
    assert not train & held_out
    assert len(train | held_out) == 120
    # Three standard deviations of 600 records in groups of five.
    assert abs(count - 60) < 3 * 5 * (120 * 0.09) ** 0.5


def test_a_group_stays_where_it_is_as_others_come_and_go():
    (records,) = notes(sites=1)
    _, before = persons_of(NOTES.split(records, (), one_each), records)
    fewer = [record for record in records if record.columns["patient"] not in {"p3", "p50"}][::-1]
    _, after = persons_of(NOTES.split(fewer, (), one_each), fewer)
    assert after == before - {"p3", "p50"}
    assert min(before, key=place_of) in after


def test_one_group_of_few_is_held_out_and_one_alone_is_too_little():
    (records,) = notes(persons=2, sites=1)
    train, held_out = persons_of(NOTES.split(records, (), one_each), records)
    assert (len(train), len(held_out)) == (1, 1)
    with pytest.raises(TooLittleDataError, match="1 group by column 'patient', expected at least 2"):
        NOTES.split(records[:5], (), one_each)
    with pytest.raises(DataError, match="'patient' is missing or empty in 1 of 6 records"):
        NOTES.split([*records[:5], Record(text="x")], (), one_each)


def test_of_a_given_split_nobody_is_judged_on_who_trains():
    (records,) = notes(persons=20, sites=1)
    split = NOTES.split(records[:60], records[50:], one_each)
    assert {each.tokens.tobytes() for each in split.held_out} == {
        each.tokens.tobytes() for each in one_each(records[60:])
    }


def essays(count: int, seed: int = 1) -> list[Record]:
    drawn = random.Random(seed)
    return [Record(text="".join(chr(drawn.randrange(32, 127)) for _ in range(500))) for _ in range(count)]


def test_whole_documents_are_held_out_of_several_and_the_end_of_few():
    records = essays(60)
    split = TEXTS.split(records, (), packed)
    held = {each.record for each in split.held_out}
    assert 0 < len(held) < 15
    assert held.isdisjoint(each.record for each in split.train)
    assert split.clusters == tuple(each.record for each in split.held_out)
    few = TEXTS.split(records[:5], (), packed)
    assert {each.record for each in few.held_out} == {4}


def test_what_training_text_repeats_is_trained_on_and_counted():
    records = essays(60)
    plain = TEXTS.split(records, (), packed)
    repeated = max(each.record for each in plain.held_out)
    # The same text but for its beginning, so that it is another document, which trains.
    copy = next(
        Record(text=f"{number}" + records[repeated].text[3:])
        for number in range(100, 999)
        if place_of(f"{number}" + records[repeated].text[3:]) > 0.1
    )
    split = TEXTS.split([*records, copy], (), packed)
    gone = {each.digest for each in plain.held_out} - {each.digest for each in split.held_out}
    assert split.repeated == len(gone) >= 500 // 64 - 1
    assert gone <= {each.digest for each in split.train}
    # Where groups are named a repeated record is left out: nobody is on both sides.
    (people,) = notes(persons=40, sites=1)
    trained, held = (
        next(each for each in people if (place_of(each.columns["patient"]) < 0.1) is side) for side in (False, True)
    )
    same = [replace(held, text=trained.text) if each is held else each for each in people]
    split = replace(NOTES, keeps_repeated=False).split(same, (), one_each)
    assert split.repeated == 1
    assert not set.intersection(*persons_of(split, same))


def test_where_all_is_repeated_it_is_held_out_all_the_same():
    split = TEXTS.split([Record(text="the same line\n" * 200)], (), packed)
    assert split.repeated == len(split.held_out) > 0


def example(tokens: Sequence[int], learned: int = 0) -> Example:
    row = np.asarray(tokens, np.int32)
    return Example(row, np.where(np.arange(len(row)) < learned, IGNORED, row))


def test_more_than_half_of_the_windows_repeats_a_sequence():
    train, own = list(range(1000, 1100)), list(range(5000, 5100))
    windows = 100 - WINDOW + 1
    shared = WINDOW - 1 + windows // 2
    half, more = (example(train[:count] + own[count:]) for count in (shared, shared + 1))
    assert not repeats([example(train)], [half])
    assert repeats([example(train)], [more]) == [0]
    # What is moved to training repeats others in turn, and short sequences are compared whole.
    again, short = example([*own[:23], *more.tokens[23:]]), example([7, 8])
    assert repeats([example(train), short], [again, more, short, example([7, 9])]) == [0, 1, 2]
    # A prompt that all have in common repeats nothing: of an answer only its own windows count.
    prompt = list(range(60))
    assert not repeats([example([*prompt, *train], learned=60)], [example([*prompt, *own], learned=60)])


def labelled(labels: Sequence[int]) -> tuple[list[Record], list[Example]]:
    rows = [(np.asarray([number], np.int32), np.asarray([label], np.int32)) for number, label in enumerate(labels)]
    records = [Record(text=str(number), label=str(label)) for number, label in enumerate(labels)]
    return records, [Example(*row, record=place) for place, row in enumerate(rows)]


LABELS = replace(TEXTS, packs=False, by_label=True, keeps_repeated=True)


def test_one_example_is_too_little_data():
    with pytest.raises(TooLittleDataError, match=r"client 'site' has too little data: 1 sequences .* at least 2"):
        TEXTS.split([Record(text="x" * 64)], (), packed)


def test_of_labelled_text_the_last_of_every_class_is_held_out_however_it_is_sorted():
    records, examples = labelled([0] * 40 + [1] * 20 + [2] * 10)
    split = LABELS.split(records, (), lambda _: examples)
    # A tenth of each class: 4, 2 and 1, each the last of its own.
    assert sorted(int(example.tokens[0]) for example in split.held_out) == [36, 37, 38, 39, 58, 59, 69]
    assert len(split.train) == 63


@pytest.mark.parametrize("most", [4, 8, 10])
def test_a_bounded_held_out_part_of_labelled_text_has_every_class_in_proportion(most):
    # Six, three and one of ten in turn: with an even step one of two or of five is always of the same class.
    records, examples = labelled([0, 1, 0, 0, 1, 0, 2, 0, 1, 0] * 80)
    for given in ((), records):
        how = replace(LABELS, fraction=0.5, most=most)
        split = how.split(records, given, lambda some: examples[: len(some)])
        counts = np.bincount([int(example.labels[0]) for example in split.held_out], minlength=3)
        assert counts.sum() == most
        assert np.all(np.abs(counts - most * np.asarray([0.6, 0.3, 0.1])) < 1)


def owners_of(part: Sequence[Example], records: Sequence[Record]) -> set[str]:
    return {records[each.record].columns["patient"] for each in part}


def test_persons_who_judge_decide_nothing_and_what_trains_is_the_same():
    (records,) = notes(sites=1)
    plain, judged = (replace(NOTES, judge_part=count).split(records, (), one_each) for count in (0, 600))
    assert (judged.digest, judged.groups) == (plain.digest, plain.groups)
    assert {each.digest for each in (*judged.held_out, *judged.judge)} == {each.digest for each in plain.held_out}
    decide, judge = (owners_of(part, records) for part in (judged.held_out, judged.judge))
    assert not decide & judge
    assert min(len(decide), len(judge)) >= 4
    assert len(set(judged.judge_clusters)) == len(judge)
    # A person stays on its side as others come and go.
    fewer = [record for record in records if record.columns["patient"] not in {"p3", "p50"}]
    assert owners_of(replace(NOTES, judge_part=500).split(fewer, (), one_each).judge, fewer) == judge - {"p3", "p50"}


def test_no_sequence_that_decides_has_text_of_a_document_that_judges():
    records = essays(300)
    split = replace(TEXTS, judge_part=300).split(records, (), packed)
    sides = [split.measured(judging=judging)[0] for judging in (False, True)]
    for side, other in (sides, sides[::-1]):
        text = "".join(chr(token) for each in side for token in each.tokens)
        assert not [each.record for each in other if records[each.record].text[100:140] in text]
    assert split.digest == TEXTS.split(records, (), packed).digest


def test_few_records_or_few_persons_have_no_judge_part():
    (records,) = notes(sites=1)
    assert not replace(NOTES, judge_part=601).split(records, (), one_each).judge
    few = [record for record in records if int(record.columns["patient"][1:]) < 20]
    split = replace(NOTES, judge_part=10).split(few, (), one_each)
    assert not split.judge
    assert len(split.held_out) == len(NOTES.split(few, (), one_each).held_out)
