from collections.abc import Mapping

import pytest

from plait.adapters.methods import METHODS
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError
from plait.features.privacy.run import privacy_of
from plait.features.secagg.run import masked_of
from plait.plugins import Kind, reference
from plait.rounds.events import DataUsed
from plait.settle import settle, settle_on_data
from plait.traits import Trait


def _mine(logits: object, labels: object, adapter: object) -> object:
    """A loss."""
    return logits


OWN_LOSS = reference(Kind.LOSS, _mine)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "lora_xs"])
def test_clients_find_their_learning_rate_where_none_is_given(method: str) -> None:
    settled = settle(config_from_table({"method": method}))
    assert settled.config.learning_rate == settled.plan.settings.learning_rate == 0


@pytest.mark.parametrize(
    ("rank", "wire", "rate"),
    [(8, "fp32", 0.25 / 8), (4, "4", 0.25 / 4), (32, "fp32", 0.25 / 32), (8, "1", 0.125 / 8), (8, "2", 0.125 / 8)],
)
def test_a_square_matrix_is_changed_by_a_quarter_at_most_and_over_a_coarse_wire_by_half_of_that(
    rank, wire, rate
) -> None:
    table = {"method": "lora_xs", "rule": "fedsb", "rank": rank, "wire": wire}
    assert settle(config_from_table(table)).config.learning_rate == pytest.approx(rate)
    private = table | {"dp": "client", "dp-noise-multiplier": 1.0, "learning-rate": 0.0}
    assert settle(config_from_table(private)).config.learning_rate == METHODS["lora_xs"].learning_rate_at(rank)


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({}, "slope"),
        ({"learning-rate": 0.003}, "constant"),
        ({"method": "dora"}, "slope"),
        ({"rule": "krum"}, "slope"),
        ({"rule": "multi_krum"}, "constant"),
        ({"rule": "multi_krum", "lr-schedule": "slope"}, "slope"),
        ({"rule": "bulyan"}, "constant"),
        ({"labels": "good,bad"}, "linear"),
        ({"labels": "good,bad", "rounds": 4, "local-steps": 5}, "linear"),
        ({"labels": "good,bad", "rounds": 5, "local-steps": 3}, "slope"),
        ({"labels": "good,bad", "learning-rate": 0.003}, "constant"),
        ({"method": "lora_xs", "rule": "fedsb"}, "slope"),
        ({"rule": "krum", "learning-rate": 0.01}, "constant"),
        ({"method": "dora", "correction": "scaffold"}, "constant"),
        ({"method": "dora", "trainer": "my_trainer:build"}, "constant"),
        ({"method": "dora", "dp": "client", "dp-noise-multiplier": 1.0}, "constant"),
        ({"method": "dora", "lr-schedule": "linear"}, "linear"),
        ({"lr-schedule": "slope"}, "slope"),
    ],
)
def test_rates_that_clients_find_follow_slopes(given, schedule) -> None:
    settled = settle(config_from_table(given))
    assert settled.config.lr_schedule == settled.plan.settings.lr_schedule == schedule
    assert settle(settled.config).config == settled.config


def test_a_rate_falls_where_the_data_turn_out_to_have_classes_unless_a_schedule_is_given() -> None:
    used = DataUsed(name="letters", fingerprint="00", records=8)
    for given, schedule in (({}, "linear"), ({"lr-schedule": "slope"}, "slope"), ({"learning-rate": 0.01}, "constant")):
        settled = settle_on_data(config_from_table(given), partition="iid", labels="good,bad", data=used)
        assert settled.plan.settings.lr_schedule == settled.config.lr_schedule == schedule
        assert (settled.config.partition, settled.config.labels, settled.data) == ("iid", "good,bad", used)


def test_with_differential_privacy_the_method_gives_the_learning_rate() -> None:
    private = {"dp": "client", "dp-noise-multiplier": 1.0}
    settled = settle(config_from_table(private))
    assert settled.config.learning_rate == METHODS["lora"].learning_rate
    assert privacy_of(settled.config).largest_step > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_trainer_gets_the_methods_learning_rate_where_none_is_given(method: str) -> None:
    config = config_from_table({"method": method, "trainer": "my_trainer:build"})
    assert (
        settle(config).config.learning_rate
        == settle(config).plan.settings.learning_rate
        == METHODS[method].learning_rate
        > 0
    )


@pytest.mark.parametrize(
    ("method", "rank", "rate"), [("lora_xs", 4, 1e-2), ("lora_xs", 32, 2.5e-3), ("lora", 32, 3e-3), ("vera", 32, 3e-2)]
)
def test_a_square_matrix_learns_the_slower_the_more_rows_it_has(method: str, rank: int, rate: float) -> None:
    config = config_from_table({"method": method, "rank": rank, "trainer": "my_trainer:build"})
    assert settle(config).config.learning_rate == rate


def test_a_learning_rate_that_is_given_stands() -> None:
    config = config_from_table({"method": "vera", "learning-rate": 1e-5})
    assert settle(config).config.learning_rate == 1e-5
    assert settle(config).plan.settings.learning_rate == 1e-5


def test_a_wire_that_is_not_there_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="wire is '1bit'"):
        settle(config_from_table({"wire": "1bit"}))


def test_a_method_that_is_not_there_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match=r"method is 'lorra', expected one of .*did you mean 'lora'"):
        settle(config_from_table({"method": "lorra"}))


@pytest.mark.parametrize(
    ("given", "moments"),
    [
        ({}, "carry"),
        ({"rule": "median"}, "carry"),
        ({"rule": "krum"}, "carry"),
        ({"rule": "fedsvd"}, "fresh"),  # other factors in every round
        ({"rule": "flexlora"}, "carry"),
        ({"rule": "flexlora", "client-ranks": "8,8"}, "carry"),
        ({"rule": "flexlora", "client-ranks": "2,8"}, "fresh"),  # each rank is cut anew in every round
        ({"rule": "hetlora", "client-ranks": "2,8"}, "carry"),
        ({"clients": 9, "clients-per-round": 3}, "fresh"),  # of rounds long ago
        ({"over-selection": 0.5}, "fresh"),
        ({"correction": "scaffold"}, "fresh"),
        ({"trainer": "mine:build"}, "fresh"),
    ],
)
def test_moments_are_carried_where_they_are_of_the_round_before(given: dict[str, object], moments: str) -> None:
    config = config_from_table(given)
    assert settle(config).plan.settings.carry_moments == (moments == "carry")


def test_nothing_is_carried_over_to_factors_that_turn() -> None:
    given = {"correction": "scaffold"}
    assert settle(config_from_table({"rule": "flexlora", **given})).rule.name == "flexlora"
    several = config_from_table({"rule": "flexlora", "client-ranks": "2,8", **given})
    with pytest.raises(ConfigError, match="this rule gives other factors to clients of several ranks in every round"):
        settle(several)
    with pytest.raises(ConfigError, match="this rule gives other factors in every round"):
        settle(config_from_table({"rule": "raflora", **given}))


def test_own_adapters_go_with_rules_that_add_up_what_clients_moved() -> None:
    assert settle(config_from_table({"own-share": 0.5, "rule": "ffa"})).rule.name == "ffa"


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 0.35),
        ({"rule": "ffa"}, 0.35),
        ({"own-share": 0}, 0.0),
        ({"own-share": "0.25"}, 0.25),
        ({"correction": "scaffold"}, 0.0),
        ({"clients": 1}, 0.0),
        ({"rule": "fedsa"}, 0.0),
        ({"rule": "fedsvd"}, 0.0),
        ({"rule": "krum"}, 0.0),
        ({"clients": 20, "clients-per-round": 8}, 0.0),  # who is not asked for long has but an old adapter of its own
    ],
)
def test_clients_have_an_adapter_of_their_own_where_that_is_sound(given: dict[str, object], share: float) -> None:
    assert settle(config_from_table(given)).plan.settings.own_share == share


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "less than 1"), (-0.1, "greater than or equal to 0"), ("nan", ""), ("some", "auto or a number")],
)
def test_a_share_that_is_none_is_refused_by_its_key(share: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration: own-share is .*, expected {expected}"):
        config_from_table({"own-share": share})


@pytest.mark.parametrize(
    ("given", "optimizer"),
    [
        ({}, "line_search"),
        ({"rule": "fedsvd"}, "none"),
        ({"rule": "rolora"}, "none"),
        ({"rule": "krum"}, "none"),
        ({"correction": "scaffold"}, "none"),
        ({"secure-aggregation": True}, "none"),
        ({"clients-per-round": 2}, "none"),
        ({"correction": "fedprox"}, "line_search"),
        ({"server-optimizer": "sgd:lr=2,momentum=0.5"}, "sgd"),
        ({"server-optimizer": "none"}, "none"),
        ({"server-optimizer": "sgd"}, "sgd"),
    ],
)
def test_the_servers_step_follows_clients_slopes_unless_they_have_none(
    given: dict[str, object], optimizer: str
) -> None:
    settled = settle(config_from_table(given))
    assert settle(settled.config).config == settled.config
    assert settled.optimizer.name == optimizer
    assert settled.plan.settings.measures_slope is (optimizer == "line_search")


@pytest.mark.parametrize(
    ("given", "factor"),
    [
        ({"clients": 8}, 2.0),
        ({"clients": 2}, 2**0.5),
        ({"clients": 1}, 1.0),
        ({"clients": 100, "clients-per-round": 3}, 3**0.5),
        ({"rule": "ffa", "method": "dora"}, 2.0),
        ({"rule": "krum"}, 1.0),
        ({"method": "ia3"}, 1.0),
        ({"rounds-mode": "async"}, 1.0),
        ({"lr-schedule": "constant"}, 1.0),
        ({"learning-rate": 0.01}, 1.0),
    ],
)
def test_a_found_rate_goes_on_higher_where_the_server_takes_a_mean_of_several_clients_factors(
    given: dict[str, object], factor: float
) -> None:
    settled = settle(config_from_table(given))
    assert settled.plan.settings.found_rate_factor == pytest.approx(factor)
    assert settle(settled.config).config == settled.config


@pytest.mark.parametrize(
    ("given", "sequences"),
    [
        ({}, 16),  # judged at a third of the 4 steps of 4 sequences, three passes each
        ({"eval_every": 5}, 80),
        ({"eval_every": 50}, 80),  # no more is trained than the run's 5 rounds
        ({"local_steps": 20, "gradient_accumulation_steps": 2}, 160),
        ({"eval_clients": 2}, 32),
        ({"eval_clients": 2, "local_steps": 30}, 120),  # one that judges takes no longer than one that trains
        ({"clients": 1000, "clients_per_round": 500}, 16),
        ({"clients": 1000, "clients_per_round": 10}, 16),
        ({"clients": 1000, "clients_per_round": 10, "eval_clients": 1000}, 4),
        ({"clients": 2, "local_steps": 1, "batch_size": 1}, 32),
        ({"labels": "good,bad"}, 32),  # one label each
        ({"labels": "good,bad", "clients": 2}, 128),
        ({"labels": "good,bad", "eval_every": 5}, 80),
        ({"clients": 2, "max_held_out_sequences": 1}, 1),
    ],
)
def test_as_many_sequences_are_judged_as_take_a_third_of_the_training_and_enough(given, sequences) -> None:
    assert settle(RunConfig(**given)).plan.settings.max_held_out_sequences == sequences
    assert settle(settle(RunConfig(**given)).config).config.max_held_out_sequences == sequences


@pytest.mark.parametrize(
    ("given", "evaluators"),
    [
        ({}, 0),
        ({"clients": 500}, 0),
        ({"clients": 8, "clients_per_round": 2}, 0),
        ({"clients": 40, "clients_per_round": 4}, 8),
        ({"clients": 1000, "clients_per_round": 100}, 100),
        ({"clients": 1000, "clients_per_round": 100, "eval_clients": 3}, 3),
        ({"clients": 40, "rounds_mode": "async", "clients_per_round": 20}, 20),
    ],
)
def test_a_sample_evaluates_where_only_some_clients_take_part_in_a_round(given, evaluators) -> None:
    settled = settle(config_from_table(given))
    assert settled.plan.eval_clients == evaluators
    assert settle(settled.config).config == settled.config


MASKED = {"secure-aggregation": True, "clients": 8}


@pytest.mark.parametrize("given", [{"clients": 2}, {"clients-per-round": 2}, {"eval-clients": 1}])
def test_a_masked_sum_has_at_least_three_clients(given):
    ((key, count),) = given.items()
    with pytest.raises(ConfigError, match=f"{key} is {count} and secure-aggregation is true, expected at least 3"):
        config_from_table({**MASKED, **given})


def test_secure_aggregation_turns_off_what_looks_at_single_clients():
    settled = settle(config_from_table(MASKED))
    assert (settled.config.norm_bound, settled.config.keep) == ("off", "last")
    assert masked_of(settled.config).clients == 8
    assert settled.plan.settings.secure_aggregation
    assert settle(settled.config) == settled
    assert not settle(config_from_table({"clients": 8})).plan.settings.secure_aggregation


def test_under_masks_every_client_adds_its_share_of_the_noise_of_private_clients():
    settled = settle(config_from_table({**MASKED, "clients": 100, "dp": "client", "dp-epsilon": 8.0, "dp-clip": 0.3}))
    privacy, task = privacy_of(settled.config), settled.plan.settings
    assert masked_of(settled.config).privacy == privacy
    assert (privacy.clients, privacy.guaranteed) == (100, 67)
    assert (task.client_noise, task.client_clip, task.client_cohort) == (privacy.noise_multiplier, 0.3, 100)
    assert privacy.epsilon_after(settled.config.rounds) <= 8.0
    assert settled.config.dp_delta == 1e-5
    assert (settled.config.norm_bound, settled.config.keep) == ("off", "last")
    assert settle(settled.config) == settled
    assert not settle(config_from_table({"clients": 100, "dp": "client", "dp-epsilon": 8.0})).plan.settings.adds_share


PRIVATE = {"dp": "client", "dp-epsilon": 8.0, "clients": 100}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dp-noise-multiplier": 1.0}, "dp-epsilon is 8 and dp-noise-multiplier is 1, expected one of the two"),
        ({"dp-epsilon": 0.0}, "neither dp-epsilon nor dp-noise-multiplier is given and dp is 'client'"),
        ({"dp": "off"}, "dp-epsilon is 8.0 and dp is 'off', expected dp-epsilon 0.0 or dp client or dp record"),
        ({"dp": "off", "dp-epsilon": 0.0, "dp-clip": 1.0}, "dp-clip is 1.0 and dp is 'off'"),
        ({"dp-epsilon": 1e-6, "dp-delta": 1e-12}, "dp-epsilon is 1e-06 and rounds is 5, which takes noise of .* times"),
        ({"dp-delta": 0.01}, r"dp-delta is 0.01 and clients is 100, expected less than 1 / clients = 0.01"),
    ],
)
def test_what_a_private_run_cannot_have_is_refused_in_one_line_with_both_settings(given, message):
    with pytest.raises(ConfigError, match=message) as refused:
        settle(config_from_table({**PRIVATE, **given}))
    assert "\n" not in str(refused.value)


OF_RECORDS = {"dp": "record", "dp-epsilon": 8.0}


def test_private_records_have_noise_and_a_clip_norm_of_their_own():
    with pytest.raises(ConfigError, match="neither dp-epsilon nor dp-noise-multiplier is given and dp is 'record'"):
        config_from_table({"dp": "record"})
    with pytest.raises(ConfigError, match=r"max-grad-norm is .* and dp is 'record', expected max-grad-norm"):
        config_from_table({**OF_RECORDS, "max-grad-norm": 0.5})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rule": "median"},
        {"rule": "fedsvd"},
        {"correction": "scaffold"},
        {"client-ranks": "4,8", "rule": "flexlora"},
        {"dropout": 0.1},
    ],
)
def test_private_records_are_in_the_settings_that_clients_get_and_go_with_every_rule(more):
    settled = settle(config_from_table({**OF_RECORDS, **more}))
    task = settled.plan.settings
    assert privacy_of(settled.config) is None
    assert (task.record_delta, task.record_epsilon, task.record_noise, task.record_clip) == (1e-5, 8.0, 0.0, 0.0)
    assert (settled.config.norm_bound, settled.config.keep) == ("10", "last")
    # A learning rate that is found in the data is not private.
    assert task.learning_rate > 0
    assert settle(settled.config).config == settled.config
    given = {"dp": "record", "dp-noise-multiplier": 0.7, "dp-clip": 0.3, "dp-delta": 1e-6}
    task = settle(config_from_table(given)).plan.settings
    assert (task.record_delta, task.record_epsilon, task.record_noise, task.record_clip) == (1e-6, 0.0, 0.7, 0.3)
    assert not settle(config_from_table({})).plan.settings.records_are_private
    assert not settle(config_from_table(PRIVATE)).plan.settings.records_are_private


def test_a_private_run_turns_off_what_reads_single_clients():
    settled = settle(config_from_table(PRIVATE))
    assert settled.config.norm_bound == "off"
    assert settled.config.keep == "last"
    assert settled.config.dp_delta == 1e-5
    assert privacy_of(settled.config).clients == 100
    assert privacy_of(settled.config).first_clip(10_000) > 0
    # Complete settings, such as those of a run's own config.toml, do not change.
    assert settle(settled.config).config == settled.config
    assert settle(
        config_from_table({"dp": "client", "dp-epsilon": 1.0, "clients": 10**6})
    ).config.dp_delta == pytest.approx(1e-7)


def test_a_run_without_privacy_bounds_norms_as_ever():
    settled = settle(config_from_table({}))
    assert settled.config.norm_bound == "10"
    assert settled.plan.watch.take_back
    assert privacy_of(settled.config) is None
    assert settle(config_from_table({"norm-bound": "off"})).config.norm_bound == "off"


def test_the_noise_follows_from_epsilon_and_rounds():
    few, many = (privacy_of(settle(config_from_table({**PRIVATE, "rounds": rounds})).config) for rounds in (5, 500))
    assert many.noise_multiplier == pytest.approx(10 * few.noise_multiplier)
    assert many.epsilon_after(500) == pytest.approx(8.0)


OF_CLIENTS = {**PRIVATE, "dp-clip": 1.0}
TAKEN_AND_NEEDED: list[tuple[Mapping[str, object], str, Mapping[str, object], Trait]] = [
    (MASKED, "secure-aggregation", {"norm-bound": 10}, Trait.SINGLE_UPDATES),
    (MASKED, "secure-aggregation", {"weighting": "examples"}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"rule": "zeropad", "client-ranks": "4,8"}, Trait.ONE_RANK),
    (MASKED, "secure-aggregation", {"over-selection": 0.5}, Trait.RELEASED),
    (MASKED, "secure-aggregation", {"patience": 2}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"keep": "best"}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"reference": "local"}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"fleet": "x.toml"}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"rule": "median"}, Trait.LINEAR),
    (MASKED, "secure-aggregation", {"server-optimizer": "line_search"}, Trait.FIGURES),
    (MASKED, "secure-aggregation", {"dp": "record", "dp-noise-multiplier": 1.0}, Trait.SINGLE_UPDATES),
    (OF_CLIENTS, "dp", {"norm-bound": "clip:10"}, Trait.SINGLE_UPDATES),
    (OF_CLIENTS, "dp", {"weighting": "examples"}, Trait.FIGURES),
    (OF_CLIENTS, "dp", {"rule": "zeropad", "client-ranks": "4,8"}, Trait.ONE_RANK),
    (OF_CLIENTS, "dp", {"patience": 2}, Trait.FIGURES),
    (OF_CLIENTS, "dp", {"reference": "central"}, Trait.FIGURES),
    (OF_CLIENTS, "dp", {"rule": "flexlora"}, Trait.LINEAR),
    (OF_RECORDS, "dp", {"trainer": "mine:trainer"}, Trait.OWN_LOSS),
    (OF_RECORDS, "dp", {"objective": "dpo"}, Trait.OWN_LOSS),
    (OF_RECORDS, "dp", {"loss": OWN_LOSS}, Trait.OWN_LOSS),
    (OF_RECORDS, "dp", {"step-budget": "speed"}, Trait.EQUAL_STEPS),
    (OF_RECORDS, "dp", {"fleet": "fleet.toml"}, Trait.FIGURES),
    (OF_RECORDS, "dp", {"server-optimizer": "line_search"}, Trait.FIGURES),
    (OF_RECORDS, "dp", {"lr-schedule": "slope"}, Trait.SLOPES),
    ({"trainer": "mine:build"}, "trainer", {"lr-schedule": "slope"}, Trait.SLOPES),
    ({"trainer": "mine:build"}, "trainer", {"objective": "dpo"}, Trait.OWN_LOSS),
    ({"loss": OWN_LOSS}, "loss", {"objective": "dpo"}, Trait.OWN_LOSS),
    ({"labels": "a,b"}, "labels", {"objective": "dpo"}, Trait.LANGUAGE),
    ({"rounds-mode": "async"}, "rounds-mode", {"rule": "flexlora"}, Trait.LINEAR),
    ({"rounds-mode": "async"}, "rounds-mode", {"rule": "rolora"}, Trait.SAME_SIDES),
    ({"rounds-mode": "async"}, "rounds-mode", {"deadline-s": 5.0}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", {"over-selection": 0.5}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", {"step-budget": "speed"}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", {"correction": "scaffold"}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", {"own-share": 0.3}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", OF_CLIENTS, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", MASKED, Trait.RELEASED),
    ({"rounds-mode": "async"}, "rounds-mode", {"patience": 2}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", {"keep": "best"}, Trait.WAITS),
    ({"device": "cpu,cpu"}, "device", {"over-selection": 0.5}, Trait.RELEASED),
    ({"device": "cpu,cpu", "fleet": "x.toml"}, "device", {"deadline-s": 5.0}, Trait.RELEASED),
    ({"device": "cpu,cpu", "fleet": "x.toml"}, "device", {"rounds-mode": "async"}, Trait.RELEASED),
    ({"own-share": 0.5}, "own-share", {"patience": 2}, Trait.LAST_ROUND),
    ({"own-share": 0.5}, "own-share", {"correction": "feddyn"}, Trait.OWN_STEPS),
    ({"own-share": 0.5}, "own-share", {"rule": "fedsa"}, Trait.ALL_SHARED),
    ({"own-share": 0.5}, "own-share", {"rule": "krum"}, Trait.LINEAR),
    ({"own-share": 0.5}, "own-share", {"rule": "fedsvd"}, Trait.SAME_FACTORS),
    ({"correction": "scaffold"}, "correction", {"server-optimizer": "sgd"}, Trait.MEAN_STEP),
    ({"correction": "scaffold"}, "correction", {"rule": "rolora"}, Trait.SAME_SIDES),
    ({"rule": "fedsvd"}, "rule", {"server-optimizer": "fedadam"}, Trait.SAME_FACTORS),
    ({"rule": "flexlora"}, "rule", {"method": "ia3"}, Trait.FACTORS),
    ({"rule": "fedsb"}, "rule", {"method": "lora"}, Trait.SQUARES),
    ({"client-ranks": "2,8"}, "client-ranks", {"rule": "median"}, Trait.ONE_RANK),
    ({"client-ranks": "2,8"}, "client-ranks", {"method": "vera"}, Trait.FACTORS),
]


@pytest.mark.parametrize(("one", "key", "other", "trait"), TAKEN_AND_NEEDED)
def test_what_one_part_takes_and_another_needs_is_refused_in_one_line_with_both_and_what_would_do(
    one, key, other, trait
):
    with pytest.raises(ConfigError) as refused:
        settle(config_from_table({**one, **other}))
    text = str(refused.value).removeprefix("configuration: ")
    first, _, rest = text.partition(" and ")
    second, _, expected = rest.partition(", expected ")
    keys = {first.partition(" is ")[0], second.partition(" is ")[0]}
    assert key in keys
    assert keys - {key} < {*other, *one}
    assert f"needs that {trait}" in text
    assert text.isprintable()
    assert all(each in expected.partition(":")[0] for each in keys)


def test_a_rule_that_would_do_is_named_and_does():
    refused = {"secure-aggregation": True, "rule": "median"}
    with pytest.raises(ConfigError) as error:
        settle(config_from_table(refused))
    named = str(error.value).partition("or rule ")[2].partition(":")[0].removesuffix(", …").split(", ")
    assert "fedavg" in named
    for rule in named:
        assert settle(config_from_table({**refused, "rule": rule})).rule.name == rule
