from dataclasses import replace

import pytest

from plait.adapters import Layout, Task
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, PolicyError
from plait.flower.rules import ALL_RULES
from plait.plan import _check_reach, blueprint_of, optimizer_of, rule_of, settings_of, settled, terms_of
from plait.policy import Policy
from plait.training.bases import locate_base
from plait.training.blueprint import base_modules, read_base_config
from plait.training.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_its_own_learning_rate_where_none_is_given(method: str) -> None:
    config = config_from_table({"method": method})
    assert settled(config).learning_rate == settings_of(config).learning_rate == METHODS[method].learning_rate > 0


@pytest.mark.parametrize(
    ("method", "rank", "rate"), [("lora_xs", 4, 1e-2), ("lora_xs", 32, 2.5e-3), ("lora", 32, 3e-3), ("vera", 32, 3e-2)]
)
def test_a_square_matrix_learns_the_slower_the_more_rows_it_has(method: str, rank: int, rate: float) -> None:
    assert settled(config_from_table({"method": method, "rank": rank})).learning_rate == rate


def test_a_learning_rate_that_is_given_stands() -> None:
    config = config_from_table({"method": "vera", "learning-rate": 1e-5})
    assert settled(config).learning_rate == 1e-5
    assert settings_of(config).learning_rate == 1e-5


def test_a_wire_that_is_not_there_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="wire is '1bit'"):
        settled(config_from_table({"wire": "1bit"}))


def test_a_method_that_is_not_there_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match=r"method is 'lorra', expected one of .*did you mean 'lora'"):
        settled(config_from_table({"method": "lorra"}))


@pytest.mark.parametrize(
    ("given", "moments"),
    [
        ({}, "carry"),
        ({"rule": "median"}, "carry"),
        ({"rule": "krum"}, "carry"),
        ({"rule": "flora"}, "fresh"),  # other factors in every round
        ({"rule": "product_mean"}, "carry"),
        ({"rule": "product_mean", "client-ranks": "8,8"}, "carry"),
        ({"rule": "product_mean", "client-ranks": "2,8"}, "fresh"),  # each rank is cut anew in every round
        ({"rule": "hetlora", "client-ranks": "2,8"}, "carry"),
        ({"clients": 9, "clients-per-round": 3}, "fresh"),  # of rounds long ago
        ({"over-selection": 0.5}, "fresh"),
        ({"scaffold": True}, "fresh"),
        ({"trainer": "mine:build"}, "fresh"),
        ({"moments": "fresh"}, "fresh"),
        ({"clients": 9, "clients-per-round": 3, "moments": "carry"}, "carry"),
    ],
)
def test_moments_are_carried_where_they_are_of_the_round_before(given: dict[str, object], moments: str) -> None:
    config = config_from_table(given)
    assert settled(config).moments == moments
    assert settings_of(config).carry_moments == (moments == "carry")


@pytest.mark.parametrize("given", [{"moments": "carry"}, {"scaffold": True}], ids=["moments", "scaffold"])
def test_nothing_is_carried_over_to_factors_that_turn(given: dict[str, object]) -> None:
    assert rule_of(config_from_table({"rule": "product_mean", **given}), ALL_RULES).name == "product_mean"
    several = config_from_table({"rule": "product_mean", "client-ranks": "2,8", **given})
    with pytest.raises(ConfigError, match="gives other factors to clients of several ranks in every round"):
        rule_of(several, ALL_RULES)
    with pytest.raises(ConfigError, match="gives other factors in every round"):
        rule_of(config_from_table({"rule": "raflora", **given}), ALL_RULES)


@pytest.mark.parametrize("rule", ["flora", "fedsa", "median", "krum", "product_mean"])
def test_own_adapters_go_with_rules_that_add_up_what_clients_moved(rule: str) -> None:
    assert rule_of(config_from_table({"own-share": 0.5, "rule": "ffa"}), ALL_RULES).name == "ffa"
    with pytest.raises(ConfigError, match=f"own-share is 0.5 but rule '{rule}' does more than add up"):
        rule_of(config_from_table({"own-share": 0.5, "rule": rule}), ALL_RULES)


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 0.35),
        ({"rule": "ffa"}, 0.35),
        ({"own-share": 0}, 0.0),
        ({"own-share": "0.25"}, 0.25),
        ({"scaffold": True}, 0.0),
        ({"clients": 1}, 0.0),
        ({"rule": "fedsa"}, 0.0),
        ({"rule": "flora"}, 0.0),
        ({"rule": "krum"}, 0.0),
        ({"clients": 20, "clients-per-round": 8}, 0.0),  # who is not asked for long has but an old adapter of its own
    ],
)
def test_clients_have_an_adapter_of_their_own_where_that_is_sound(given: dict[str, object], share: float) -> None:
    assert settings_of(config_from_table(given)).own_share == share


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "less than 1"), (-0.1, "greater than or equal to 0"), ("nan", ""), ("some", "auto or a number")],
)
def test_a_share_that_is_none_is_refused_by_its_key(share: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration: own-share is .*, expected {expected}"):
        config_from_table({"own-share": share})


def test_an_adapter_is_built_once_for_all_settings_that_it_does_not_follow_from() -> None:
    base = locate_base("tiny").directory
    config = config_from_table({"base": "tiny", "rank-pattern": "q_proj=2"})
    first = blueprint_of(config, base)
    assert blueprint_of(config.model_copy(update={"out": "elsewhere", "partition": "iid"}), base, rank=8) is first
    for changed in ({"seed": 1}, {"rank_pattern": "q_proj=4"}, {"alpha": 1.0}, {"rank": 4}):
        other = blueprint_of(config.model_copy(update=changed), base)
        assert other.spec.digest != first.spec.digest


@pytest.mark.parametrize(
    ("given", "optimizer", "step"),
    [
        ({}, "sgd", 1.5),
        ({"clients": 2}, "none", 1.0),
        ({"rule": "median"}, "none", 1.0),
        ({"rule": "flora"}, "none", 1.0),
        ({"own-share": 0.5}, "sgd", 1.5),
        ({"scaffold": True}, "none", 1.0),
        ({"server-learning-rate": 2.0}, "sgd", 2.0),
        ({"server-optimizer": "none"}, "none", 1.0),
        ({"server-optimizer": "sgd"}, "sgd", 1.0),
    ],
)
def test_fedavg_steps_further_where_clients_are_some(given: dict[str, object], optimizer: str, step: float) -> None:
    config = settled(config_from_table(given))
    assert (config.server_optimizer, config.server_learning_rate) == (optimizer, step)
    assert settled(config) == config
    made = optimizer_of(config_from_table(given), ALL_RULES[config.rule])
    assert made.name == optimizer


@pytest.mark.parametrize(
    ("given", "sequences"),
    [
        ({}, 16),  # judged at a third of the 4 steps of 4 sequences, three passes each
        ({"eval_every": 5}, 80),
        ({"eval_every": 50}, 80),  # no more is trained than the run's 5 rounds
        ({"local_steps": 20, "gradient_accumulation_steps": 2}, 160),
        ({"eval_clients": 2}, 32),
        ({"eval_clients": 2, "local_steps": 30}, 120),  # one that judges takes no longer than one that trains
        ({"clients": 1000, "clients_per_round": 500}, 8),
        ({"clients": 1000, "clients_per_round": 10}, 4),
        ({"clients": 2, "local_steps": 1, "batch_size": 1}, 32),
        ({"clients": 2, "max_held_out_sequences": 1}, 1),
    ],
)
def test_as_many_sequences_are_judged_as_take_a_third_of_the_training_and_enough(given, sequences) -> None:
    assert settings_of(RunConfig(**given)).max_held_out_sequences == sequences
    assert settled(settled(RunConfig(**given))).max_held_out_sequences == sequences


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"full", "qlora"}))
def test_the_default_policy_takes_every_ordinary_method(method: str) -> None:
    config = config_from_table({"base": "tiny", "method": method, "own-share": 0.0})
    rule = rule_of(config, ALL_RULES)
    terms = terms_of(config, locate_base("tiny").directory, rule, client="ada", policy=Policy())
    assert terms.own.method == method


def test_the_default_policy_takes_a_classifier_with_its_new_head() -> None:
    config = config_from_table({"base": "tiny", "labels": "a,b"})
    terms = terms_of(config, locate_base("tiny").directory, rule_of(config, ALL_RULES), client="ada", policy=Policy())
    assert any("score" in name for name in terms.own.layout.by_name)


def test_an_adapter_that_reaches_embeddings_or_the_output_layer_is_refused_by_what_it_touches() -> None:
    directory = locate_base("tiny").directory
    base = base_modules(read_base_config(directory, Task.CAUSAL_LM), Task.CAUSAL_LM)
    spec = blueprint_of(config_from_table({"base": "tiny", "rank": 2}), directory).spec
    _check_reach(Policy(), spec, base)
    for name, key in (
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        ("base_model.model.model.some_name.lora_embedding_B", "embeddings"),
        ("base_model.model.lm_head.lora_A.weight", "output-layer"),
        ("base_model.model.something_new.weight", "output-layer"),
    ):
        reaching = replace(spec, layout=Layout.of({name: [2, 3]}))
        with pytest.raises(PolicyError, match=f"{key} of this client's policy"):
            _check_reach(Policy(), reaching, base)
        _check_reach(Policy(embeddings=True, output_layer=True), reaching, base)


@pytest.mark.parametrize(("given", "own"), [({}, 8), ({"client-ranks": "2,4,8", "rule": "product_mean"}, 4)])
def test_a_client_is_asked_about_the_largest_adapter_and_holds_its_own(given: dict[str, str], own: int) -> None:
    config = config_from_table({"base": "tiny", **given})
    rule = rule_of(config, ALL_RULES)
    terms = terms_of(config, locate_base("tiny").directory, rule, client="ada", max_rank=5)
    assert [spec.rank for spec in terms.specs] == [8, own]
    assert terms.own.rank == own
