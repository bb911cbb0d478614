import re
import shlex
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from plait.adapters.methods import METHODS
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, PolicyError
from plait.policy import Policy, load_policy
from plait.wire.welcome import WELCOME_KEYS


def test_the_default_takes_plaits_own_defaults_and_every_method_but_whole_weights():
    Policy().check_run(RunConfig())
    assert set(Policy().methods) == set(METHODS) - {"full"}


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"method": "full"}, "methods"),
        ({"target_modules": "q_proj,embed_tokens"}, "embeddings"),
        ({"target_modules": "lm_head"}, "output-layer"),
        ({"rank": 257}, "max-rank"),
        ({"method": "prompt:virtual-tokens=257"}, "max-virtual-tokens"),
        ({"rounds": 10_001}, "max-rounds"),
        ({"local_steps": 10_001}, "max-local-steps"),
        ({"seq_len": 15}, "min-seq-len"),
        ({"local_steps": 1000, "batch_size": 1000, "seq_len": 128}, "max-tokens"),
        ({"local_steps": 1000, "batch_size": 1, "seq_len": 100_000}, "max-seq-len"),
        ({"local_steps": 1, "batch_size": 64, "gradient_accumulation_steps": 64, "seq_len": 512}, "max-step-tokens"),
        ({"local_steps": 1, "batch_size": 7, "seq_len": 1024}, "min-examples"),
        ({"local_steps": 1, "batch_size": 8, "seq_len": 127}, "min-tokens"),
        ({"max_grad_norm": 1e-4}, "min-grad-norm"),
    ],
)
def test_a_run_that_asks_for_too_much_is_refused_with_the_key_and_the_remedy(asked, key):
    with pytest.raises(PolicyError, match=rf"^the run asks for .* but {key} of this client's policy allows .*--policy"):
        Policy().check_run(config_from_table(asked))


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ({"methods": ["full"]}, {"method": "full"}),
        ({"embeddings": True}, {"target_modules": "embed_tokens"}),
        ({"output-layer": True}, {"target_modules": "lm_head"}),
        ({"min-seq-len": 8, "min-tokens": 128}, {"seq_len": 8}),
        ({"max-step-tokens": 1 << 21}, {"batch_size": 1 << 12, "seq_len": 512}),
        ({"min-grad-norm": 1e-9}, {"max_grad_norm": 1e-6}),
    ],
)
def test_an_operator_can_allow_more(allowed, asked):
    Policy.model_validate(allowed).check_run(config_from_table(asked))


def test_what_a_policy_leaves_open_follows_from_the_plan_that_its_operator_is_shown():
    large = RunConfig(local_steps=1000, batch_size=100, seq_len=100_000)
    shown = Policy().following(large)
    shown.check_run(large)
    assert Policy().beyond(large)[0] == "max-seq-len 100,000 (by default 8,192)"
    for more, key in (({"seq_len": 100_001}, "max-seq-len"), ({"batch_size": 101}, "max-step-tokens"),
                      ({"local_steps": 1001}, "max-tokens")):  # fmt: skip
        with pytest.raises(PolicyError, match=f"{key} of this client's policy allows at most"):
            shown.check_run(large.model_copy(update=more))
    # A plan below the defaults is the limit, too; and what the file says stays.
    assert Policy().following(RunConfig(seq_len=64)).max_seq_len == 64
    own = Policy.model_validate({"max-seq-len": 4096})
    assert not any("max-seq-len" in each for each in own.beyond(large))
    with pytest.raises(PolicyError, match="max-seq-len of this client's policy allows at most 4,096"):
        own.following(large).check_run(large)


@pytest.mark.parametrize(("finest", "taken", "refused"), [("2", "2", "2.5"), ("bf16", "8", "fp32"), ("2", "1", "bf16")])
def test_an_operator_can_demand_a_coarser_wire(finest, taken, refused):
    policy = Policy(max_bits=finest)
    policy.check_run(RunConfig(bits=taken))
    with pytest.raises(PolicyError, match="max-bits"):
        policy.check_run(RunConfig(bits=refused))


def test_only_named_targets_are_allowed_where_some_are_named():
    policy = Policy(targets=("q_proj", "v_proj"))
    policy.check_targets(["layers.0.q_proj", "v_proj"])
    with pytest.raises(PolicyError, match=r"targets of this client's policy allows q_proj, v_proj"):
        policy.check_targets(["k_proj"])


def test_an_update_must_cover_enough_examples_and_tokens():
    Policy().check_coverage(examples=8, tokens=1024)
    with pytest.raises(PolicyError, match="min-examples"):
        Policy().check_coverage(examples=7, tokens=10_000)
    with pytest.raises(PolicyError, match="min-tokens"):
        Policy().check_coverage(examples=100, tokens=1023)


def test_epochs_are_bounded_by_what_they_are_on_the_data():
    Policy().check_run(config_from_table({"epochs": 1000, "rounds": 1}))
    Policy().check_work(steps=10_000, tokens=100_000_000)
    with pytest.raises(PolicyError, match="max-local-steps"):
        Policy().check_work(steps=10_001, tokens=1)
    with pytest.raises(PolicyError, match="max-tokens"):
        Policy().check_work(steps=1, tokens=100_000_001)


def test_sizes_are_bounded():
    Policy().check_upload(512e6)
    Policy().check_download("base", 20 * 10**9)
    with pytest.raises(PolicyError, match="max-upload-mb"):
        Policy().check_upload(513e6)
    with pytest.raises(PolicyError, match="give --base DIRECTORY"):
        Policy().check_download("base 'org/large'", 30 * 10**9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-ranks = 3", "unknown key 'max-ranks'; did you mean 'max-rank'"),
        ("max-rank = 'many'", "max-rank is 'many'"),
        ("max-bits = 'thin'", "max-bits is 'thin'"),
        ("consent = 'always'", "consent is 'always'"),
        ("max-rank", "is not TOML"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path, text, words):
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigError, match="cannot read policy"):
        load_policy(path)
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_policy(path)


def test_the_policy_of_the_clients_page_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "client" / "README.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "policy.toml").write_text(shown)
    assert load_policy(tmp_path / "policy.toml") != Policy()


PLACEHOLDER = re.compile(r"[$-]|[A-Z]+$")


def commands_of_the_documentation():
    """What clients would be told of every `plait simulate` and `plait server` that README files and scripts show."""
    root = Path(__file__).parents[2]
    pages = [root / "README.md", root / "server" / "README.md", *root.glob("simulations/**/README.md")]
    for page in [*pages, *root.glob("simulations/**/*.sh")]:
        for line in re.findall(r"plait (?:simulate|server) [^\n`]*", page.read_text().replace("\\\n", " ")):
            words = shlex.split(line.replace("'", " "), comments=True)
            pairs = {name[2:]: value for name, value in pairwise(words) if name.startswith("--")}
            given = {key: value for key, value in pairs.items() if key in WELCOME_KEYS and not PLACEHOLDER.match(value)}
            if given.get("method", "lora") in METHODS:  # others are not supported
                yield page, RunConfig.model_validate(given, strict=False)


def test_every_run_of_the_documentation_is_within_the_default_policy():
    commands = list(commands_of_the_documentation())
    assert len(commands) > 10
    for page, config in commands:
        try:
            Policy().check_run(config)
        except PolicyError as error:
            pytest.fail(f"{page}: {error}")


PRIVATE = {"dp": "client", "dp_epsilon": 8.0, "dp_delta": 1e-5, "clients": 100}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {},
            "the run has no differential privacy, but dp-max-epsilon of this client's policy allows epsilon",
        ),
        (PRIVATE, "the run may spend epsilon 8 at delta 1e-05, but dp-max-epsilon"),
        ({**PRIVATE, "dp_epsilon": 1.0, "dp_delta": 5e-3}, "the run has delta 0.005, but dp-max-delta"),
        ({**PRIVATE, "dp_epsilon": 1.0, "dp_delta": 0.0}, "the run has delta 0, but dp-max-delta"),
    ],
)
def test_a_client_that_insists_on_privacy_refuses_a_run_that_promises_less(asked, message):
    with pytest.raises(PolicyError, match=message):
        Policy(dp_max_epsilon=4.0).check_run(config_from_table(asked))
    Policy().check_run(config_from_table(asked))
    Policy(dp_max_epsilon=8.0).check_run(config_from_table(PRIVATE))


OF_RECORDS = {"dp": "record", "dp_epsilon": 8.0, "dp_delta": 1e-5}


def test_a_client_can_insist_on_noise_of_its_own():
    policy = Policy(dp_max_epsilon=8.0, dp_unit="record")
    policy.check_run(config_from_table(OF_RECORDS))
    with pytest.raises(PolicyError, match="dp of the run is 'client', so that the server is to add the noise, but dp-"):
        policy.check_run(config_from_table(PRIVATE))
    with pytest.raises(PolicyError, match="the run may spend epsilon 8 at delta 1e-05, but dp-max-epsilon"):
        Policy(dp_max_epsilon=4.0).check_run(config_from_table(OF_RECORDS))


@pytest.mark.parametrize(
    ("hours", "allowed"),
    [("", range(24)), ("8-18", range(8, 18)), ("22-6", (22, 23, 0, 1, 2, 3, 4, 5)), ("20-24", (20, 21, 22, 23))],
)
def test_a_run_begins_within_the_hours_only(hours, allowed):
    policy = Policy(hours=hours)
    for hour in allowed:
        policy.check_time(datetime(2026, 1, 31, hour, 59))
    for hour in set(range(24)) - set(allowed):
        with pytest.raises(PolicyError, match=rf"begins at {hour:02}:59, but hours of .* policy allows {hours};"):
            policy.check_time(datetime(2026, 1, 31, hour, 59))


@pytest.mark.parametrize("hours", ["8", "8-8", "25-3", "8-25", "-1-5", "8-x", "08:00-18:00", "8-9-10"])
def test_hours_that_are_none_are_refused(tmp_path, hours):
    path = tmp_path / "policy.toml"
    path.write_text(f'hours = "{hours}"\n')
    with pytest.raises(ConfigError, match=r"hours is .* expected two different hours from 0 to 24, such as 22-6"):
        load_policy(path)


def test_a_client_can_insist_on_masks():
    policy = Policy(require_secure_aggregation=True)
    with pytest.raises(PolicyError, match=r"the run has no secure aggregation, .* but require-secure-aggregation of"):
        policy.check_run(RunConfig())
    policy.check_run(config_from_table({"secure-aggregation": True}))
    Policy().check_run(RunConfig())
