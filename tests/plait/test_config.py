import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plait.config import config_from_table, to_toml
from plait.errors import ConfigError
from plait.settings.table import read_config_table
from plait.wire.bounds import MAX_COUNT, MAX_EXAMPLES, MAX_SEQ_LEN, MAX_STEPS

TEXTS = ("data", "base", "partition", "method", "rule", "bits", "target-modules", "trainer", "device", "out")
# Any text, and often the characters that TOML gives a meaning.
ANY_TEXT = st.text() | st.text(alphabet="\"'\\\n\r\t\0#=[]{}\x7f\u2028é😀 a")
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)


@pytest.mark.slow
@given(
    texts=st.dictionaries(st.sampled_from(TEXTS), ANY_TEXT),
    numbers=st.fixed_dictionaries(
        {},
        optional={
            "rounds": st.integers(1, 10**6),
            "seed": st.integers(0, 2**63 - 1),
            "learning-rate": st.floats(0, 1e3),
            "alpha": POSITIVE | st.integers(1, 10**6),
            "held-out-fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "dtype": st.sampled_from(["auto", "bfloat16"]),
            "labels": st.sampled_from(["", "a,b", 'tech "x", über\\n']),
        },
    ),
)
@example(texts={"out": '\\U0000"\n\x00\ud7ff\ue000\U0010ffff'}, numbers={"learning-rate": 5e-324, "alpha": 1e300})
def test_what_was_used_can_be_read_again(tmp_path_factory, texts, numbers):
    config = config_from_table({**texts, **numbers})
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(to_toml(config).encode())
    assert config_from_table(read_config_table(path)) == config


def test_a_key_is_the_same_with_and_without_its_table_and_as_flower_flattens_it():
    asked = config_from_table({"dp": "client", "dp-epsilon": 8.0, "clients": 9, "threads": 2})
    private = {"dp": "client", "dp_epsilon": 8.0}
    assert config_from_table({"clients": 9, "privacy": private, "machine": {"threads": 2}}) == asked
    assert config_from_table({"clients": 9, "privacy.dp": "client", "privacy.dp-epsilon": 8.0, "threads": 2}) == asked


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"privacy": {"threads": 2}}, r"'threads' is in \[privacy\], expected it in \[machine\]"),
        ({"machine": {"rank": 2}}, r"'rank' is in \[machine\], expected it above all tables"),
        ({"machine": {"thread": 2}}, r"\[machine\]: unknown key 'thread'; did you mean 'threads'"),
        ({"threads": 1, "machine": {"threads": 2}}, r"threads is given above all tables and in \[machine\]"),
    ],
)
def test_a_key_in_the_wrong_table_or_in_two_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table(table)


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        # plait, spelled otherwise
        ("local_steps", "local_steps", 9),
        ("LOCAL-Steps", "local_steps", 9),
        # FlowerTune
        ("num-server-rounds", "rounds", 3),
        # TRL and transformers
        ("model_name_or_path", "base", "gpt2"),
        ("max_steps", "local_steps", 3),
        # PEFT
        ("r", "rank", 3),
        ("lora_alpha", "alpha", 3.0),
    ],
)
def test_a_key_may_be_spelled_either_way_or_as_other_systems_do(theirs, ours, value):
    assert getattr(config_from_table({theirs: value}), ours) == value


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rounds": 0}, "rounds is 0, expected greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "learning-rate is nan, expected a finite number"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected less than or equal to 9223372036854775807"),
        ({"lr_schedule": "step"}, "lr-schedule is 'step', expected 'auto', 'constant', 'linear', 'cosine' or 'slope'"),
        ({"epochs": 2, "local_steps": 4}, "epochs is 2 and local-steps is 4, expected one of them"),
        ({"optimizer": "sgd"}, "'optimizer' is given, expected none: clients train by AdamW"),
        ({"data": {"a": 1}}, "data: name is None, expected text in addition to the options a"),
        ({"out": "caf\udce9"}, r"out is 'caf\\udce9', expected Unicode text"),
        ({"batchsize": 1}, r"unknown key 'batchsize'; did you mean 'batch-size'"),
        ({"rank": 8, "lora_r": 16}, "'rank' and 'lora_r' both give rank; give one of them"),
        ({"batch_size": 8, "batch-size": 8}, "'batch_size' and 'batch-size' both give batch-size"),
        ({"clients": 3, "clients_per_round": 4}, "clients-per-round is 4, expected at most clients = 3"),
        ({"reference": "central,globl"}, "reference is 'central,globl', expected central, local or central,local"),
        ({"labels": "spam,ham,spam"}, "labels are 'spam,ham,spam', expected at least two different names"),
        ({"labels": ",".join(map(str, range(10_001)))}, "labels has 10001 names, expected at most 10000"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_keys_values_and_bounds(table, message):
    with pytest.raises(ConfigError, match=f"x.toml: {message}"):
        config_from_table(table, where="x.toml")


def test_what_may_be_set_can_be_sent():
    for key, most in (
        ("local-steps", MAX_STEPS),
        ("batch-size", MAX_EXAMPLES),
        ("gradient-accumulation-steps", MAX_EXAMPLES),
        ("seq-len", MAX_SEQ_LEN),
        ("max-held-out-sequences", MAX_STEPS),
    ):
        config_from_table({key: most, **({} if key == "batch-size" else {"batch-size": 1})})
        with pytest.raises(ConfigError, match=f"{key} is {most + 1}, expected less than or equal to {most}"):
            config_from_table({key: most + 1})
    with pytest.raises(ConfigError, match="batch-size times gradient-accumulation-steps is 2097152"):
        config_from_table({"batch-size": MAX_EXAMPLES, "gradient-accumulation-steps": 2})
    assert 1_000_000 * MAX_STEPS <= MAX_COUNT


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read '.*': No such file"), (b"rounds = ", "is not TOML"), (b"\xff", "is not TOML")],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content, message):
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config_table(path)


@pytest.mark.parametrize(
    "table",
    [
        {"cli\nts-per-round": 1},
        {"labels": "q\x1b[2J=x"},
        {"clients": "8\r"},
        {"r\n": 1, "lora_r": 2, "rank": 3},
    ],
)
def test_an_error_is_one_line_whatever_it_quotes(table):
    with pytest.raises(ConfigError) as caught:
        config_from_table(table)
    assert str(caught.value).isprintable()


TABLES = [
    {"rule": "trimmed_mean:share=0.1"},
    {"rule": {"name": "trimmed_mean", "share": 0.1}},
    {"rule.name": "trimmed_mean", "rule.share": 0.1},
]


@pytest.mark.parametrize("table", TABLES, ids=["text", "table", "as Flower flattens a table"])
def test_options_of_a_rule_are_one_text_however_they_are_written(tmp_path, table):
    config = config_from_table(table)
    assert config.rule == "trimmed_mean:share=0.1"
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert config_from_table(read_config_table(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("given", "text"),
    [("auto", "auto"), ("off", "off"), (20, "20"), (2.5, "2.5"), ("20", "20"), ("clip:7.5", "clip:7.5")],
)
def test_a_norm_bound_is_a_number_or_clips_at_one(given, text):
    assert config_from_table({"norm-bound": given}).norm_bound == text


@pytest.mark.parametrize("given", [1, 0.5, "1", "clip", "clip:", "clip:1", "reject:3", "nan", "inf", "clip:inf", "-3"])
def test_a_norm_bound_that_bounds_nothing_is_refused(given):
    with pytest.raises(ConfigError, match=r"norm-bound is .*expected auto, off, a number above 1, or clip: and such"):
        config_from_table({"norm-bound": given})
