import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.adapters import Layout
from plait.errors import ConfigError, PeerError
from plait.wire.messages import (
    MAX_TEXT_BYTES,
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UnknownSettingsError,
    UpdateReply,
    check_layout,
    decode_reply,
    decode_task,
    encode_reply,
    encode_task,
    packed_layout,
)
from plait.wire.settings import Settings, digest_of
from tests.vectors import write_vectors

LAYOUT = Layout.of({"b": (2, 3), "a\u00e9": (4,)})


def test_a_layout_travels_as_the_text_that_its_digest_is_of():
    assert zlib.decompress(packed_layout(LAYOUT)) == b'[["a\\u00e9",[4]],["b",[2,3]]]'
    check_layout(packed_layout(LAYOUT), LAYOUT)
    check_layout(zlib.compress(LAYOUT.text.encode(), 0), LAYOUT)
    check_layout(b"", LAYOUT)


def test_another_layout_is_told_before_anything_is_trained():
    with pytest.raises(ConfigError, match=f"expected the 2 of {LAYOUT.size} that this client derives"):
        check_layout(packed_layout(Layout.of({"b": (3, 2)})), LAYOUT)


@pytest.mark.parametrize(
    "packed",
    [b"?", packed_layout(LAYOUT)[:-1], packed_layout(LAYOUT) + b"0", zlib.compress(bytes(MAX_TEXT_BYTES + 1))],
    ids=["no stream", "cut", "more after it", "a bomb"],
)
def test_bytes_that_are_no_layout_are_refused(packed):
    with pytest.raises(PeerError, match="layout"):
        check_layout(packed, LAYOUT)


SETTINGS = dataclasses.replace(write_vectors.SETTINGS, lr_schedule="constant", bits="fp32", seed=0)

NAMES = st.text(min_size=1, max_size=128).filter(str.isprintable)
DIGESTS = st.binary(min_size=32, max_size=32)
COUNTS = st.integers(0, 2**63 - 1)
SMALL = st.integers(0, 2**32 - 1)
SOME = st.integers(1, 2**32 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
ALL_SETTINGS = st.builds(
    Settings,
    local_steps=SOME,
    batch_size=st.integers(1, 2**10),
    gradient_accumulation_steps=st.integers(1, 2**10),
    seq_len=st.integers(1, 2**24),
    learning_rate=POSITIVE,
    weight_decay=POSITIVE | st.just(0.0),
    max_grad_norm=POSITIVE,
    held_out_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    max_held_out_sequences=SOME,
    seed=st.integers(0, 2**64 - 1),
    lr_schedule=st.sampled_from(["constant", "linear", "cosine", "slope"]),
    round=SMALL,
    total_steps=COUNTS,
    done_steps=COUNTS,
    bits=NAMES,
    trained=st.sampled_from(["AB", "A", "B"]),
    personal=st.sampled_from(["", "A", "B"]),
    proximal=POSITIVE | st.just(0.0),
    objective=NAMES,
    carry_moments=st.booleans(),
    round_epochs=st.floats(0, 1024),
    lr_schedule_over=st.sampled_from(["run", "round"]),
    packing=st.booleans(),
    personalize=st.floats(0, 1, exclude_max=True),
    measures_slope=st.booleans(),
    without_feedback=st.booleans(),
)
TASKS = (
    st.builds(DescribeTask, ALL_SETTINGS, st.text())
    | st.builds(TrainTask, ALL_SETTINGS, st.binary())
    | st.builds(EvaluateTask, ALL_SETTINGS, st.binary())
)
EVALUATIONS = st.builds(
    Evaluation,
    client=NAMES,
    round=SMALL,
    loss=FINITE,
    tokens=COUNTS,
    correct=st.none() | st.integers(0, 10),
    examples=st.integers(10, 2**63 - 1),
    own_correct=st.none() | st.integers(0, 10),
    **dict.fromkeys(("own_loss", "change", "own_change", "reward_margin", "own_reward_margin"), st.none() | FINITE),
    **dict.fromkeys(
        ("loss_error", "change_error", "own_loss_error", "own_change_error"), st.none() | POSITIVE | st.just(0.0)
    ),
)
CARDS = st.builds(
    ClientCard,
    client=NAMES,
    base_fingerprint=DIGESTS,
    spec_digest=DIGESTS,
    train_examples=COUNTS,
    train_tokens=COUNTS,
    held_out_examples=COUNTS,
    held_out_tokens=COUNTS,
    histogram=st.dictionaries(NAMES, COUNTS, max_size=4),
    max_rank=SMALL,
    cut_examples=COUNTS,
    left_out_examples=COUNTS,
)
REFUSALS = st.builds(Refusal, NAMES, st.sampled_from(RefusalReason), st.text(max_size=50).filter(str.isprintable))
REPLIES = CARDS | st.builds(UpdateReply, st.binary()) | EVALUATIONS | REFUSALS


@pytest.mark.slow
@given(task=TASKS)
def test_a_task_survives_the_wire(task):
    data = b"".join(encode_task(task))
    assert decode_task(data, max_bytes=len(data)) == task


@pytest.mark.slow
@given(reply=REPLIES)
def test_a_reply_survives_the_wire(reply):
    data = encode_reply(reply)
    assert decode_reply(data, max_bytes=len(data)) == reply


@given(st.binary(max_size=200_000))
def test_a_reply_is_read_from_a_view_as_from_bytes(update):
    data = encode_reply(UpdateReply(update))

    assert decode_reply(memoryview(data), max_bytes=len(data)) == UpdateReply(update)
    unknown = data + bytes((15 << 3, 0))
    with pytest.raises(PeerError, match="canonical"):
        decode_reply(memoryview(unknown), max_bytes=len(unknown))


@pytest.mark.parametrize(
    ("detail", "travels"),
    [("two\nlines\x1b[2J", "two lines [2J"), ("x" * 1024, "x" * 1024), ("x" * 1025, "x" * 1023 + "…"), ("", "")],
)
def test_the_detail_of_a_refusal_is_made_presentable(detail, travels):
    data = encode_reply(Refusal("bob", RefusalReason.FAILED, detail))
    assert decode_reply(data, max_bytes=len(data)) == Refusal("bob", RefusalReason.FAILED, travels)


def test_settings_travel_by_their_digest_to_who_holds_them():
    task = TrainTask(dataclasses.replace(SETTINGS, round=7, seed=2**63, done_steps=24, trained="B"), b"broadcast")
    whole, short = (b"".join(encode_task(task, whole=whole)) for whole in (True, False))
    assert len(short) < len(whole) - len(SETTINGS.text)
    assert decode_task(short, max_bytes=1000, held={digest_of(SETTINGS.text): SETTINGS.text}.__getitem__) == task
    with pytest.raises(UnknownSettingsError, match="are not held here"):
        decode_task(short, max_bytes=1000)
    with pytest.raises(PeerError, match="digest of the settings is"):
        decode_task(short, max_bytes=1000, held=lambda _: dataclasses.replace(SETTINGS, seq_len=64).text)


def test_every_setting_but_those_of_a_task_changes_the_digest():
    other = {
        "personal": "A", "lr_schedule": "linear", "bits": "bf16", "loss": "mine:loss", "objective": "dpo",
        "eval_metrics": "auroc",
        "carry_moments": True, "without_feedback": True, "trained": "B", "lr_schedule_over": "round", "packing": False,
        "measures_slope": True, "secure_aggregation": True, "judging": True,
    }  # fmt: skip
    for each in dataclasses.fields(Settings):
        before = getattr(SETTINGS, each.name)
        after = other[each.name] if each.name in other else before / 2 + 0.25 if type(before) is float else before + 1
        changed = dataclasses.replace(SETTINGS, **{each.name: after})
        of_task = each.name in ("seed", "round", "done_steps", "trained", "steps", "judging")
        assert (changed.text == SETTINGS.text) is of_task, each.name
