from collections.abc import Mapping

import pytest

from plait.adapters.methods import METHODS
from plait.config import config_from_table
from plait.errors import ConfigError
from plait.ledger.events import DataUsed
from plait.ledger.watch import Watch
from plait.plugins import Kind, reference
from plait.privacy.run import privacy_of
from plait.secagg.rounds import masked_of
from plait.settings.traits import Trait
from plait.settle import settle, settle_on_data


def _mine(logits: object, labels: object, adapter: object) -> object:
    """A loss."""
    return logits


OWN_LOSS = reference(Kind.LOSS, _mine)
MASKED = {"secure-aggregation": True, "clients": 8}
PRIVATE = {"dp": "client", "dp-epsilon": 8.0, "clients": 100}
OF_RECORDS = {"dp": "record", "dp-epsilon": 8.0}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"rule": "median"},
        {"labels": "good,bad"},
        {"method": "lora_xs", "rule": "fedsb"},
        {"clients": 40, "clients-per-round": 4},
        {"rounds-mode": "async"},
        {"trainer": "mine:build"},
        {**MASKED},
        {**PRIVATE},
        {**OF_RECORDS},
        {**MASKED, **PRIVATE},
    ],
)
def test_what_is_settled_stays_and_no_choice_is_left_open(given):
    settled = settle(config_from_table(given))
    assert settle(settled.config).config == settled.config
    assert "auto" not in {settled.config.lr_schedule, settled.config.server_optimizer, settled.config.personalize}
    assert (settled.config.learning_rate, settled.config.lr_schedule) == (
        settled.plan.settings.learning_rate,
        settled.plan.settings.lr_schedule,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"learning-rate": 1e-5},
        {"lr-schedule": "linear"},
        {"personalize": "0.25"},
        {"server-optimizer": "sgd:lr=2,momentum=0.5"},
        {"max-held-out-sequences": 1},
        {"eval-clients": 3},
        {"norm-bound": "clip:10"},
    ],
)
def test_what_is_given_stands(given):
    told = settle(config_from_table(given)).config.to_table()
    assert {key: str(told[key]) for key in given} == {key: str(value) for key, value in given.items()}


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({}, "slope"),
        ({"learning-rate": 0.003}, "constant"),
        ({"labels": "good,bad"}, "linear"),
        ({"trainer": "mine:build"}, "constant"),
        ({"dp": "client", "dp-epsilon": 8.0}, "constant"),
    ],
)
def test_a_rate_follows_slopes_where_clients_find_it_and_measure_them(given, schedule):
    settled = settle(config_from_table(given))
    assert settled.config.lr_schedule == schedule
    assert (settled.config.learning_rate == 0) is (schedule in ("slope", "linear"))


def test_a_rate_falls_where_the_data_turn_out_to_have_classes_unless_a_schedule_is_given():
    used = DataUsed(name="letters", fingerprint="00", records=8)
    for given, schedule in (({}, "linear"), ({"lr-schedule": "slope"}, "slope"), ({"learning-rate": 0.01}, "constant")):
        settled = settle_on_data(config_from_table(given), partition="iid", labels="good,bad", data=used)
        assert settled.plan.settings.lr_schedule == settled.config.lr_schedule == schedule
        assert (settled.config.partition, settled.config.labels, settled.data) == ("iid", "good,bad", used)


@pytest.mark.parametrize("method", METHODS)
def test_a_trainer_gets_the_methods_learning_rate_where_none_is_given(method):
    settled = settle(config_from_table({"method": method, "trainer": "my_trainer:build"}))
    assert settled.config.learning_rate == METHODS[method].learning_rate > 0


@pytest.mark.parametrize(
    ("given", "has_own", "follows_slopes"),
    [
        ({}, True, True),
        ({"clients": 1}, False, True),
        ({"rule": "fedsvd"}, False, False),
        ({"clients": 20, "clients-per-round": 8}, False, False),
        ({"secure-aggregation": True}, True, False),
    ],
)
def test_own_adapters_and_slopes_are_used_only_where_that_is_sound(given, has_own, follows_slopes):
    settled = settle(config_from_table(given))
    task = settled.plan.settings
    assert (task.personalize > 0, task.measures_slope) == (has_own, follows_slopes)
    assert (settled.optimizer.name != "none") is follows_slopes


@pytest.mark.parametrize("given", [{"clients": 2}, {"clients-per-round": 2}, {"eval-clients": 1}])
def test_a_masked_sum_has_at_least_three_clients(given):
    ((key, count),) = given.items()
    with pytest.raises(ConfigError, match=f"{key} is {count} and secure-aggregation is true, expected at least 3"):
        config_from_table({**MASKED, **given})


def test_under_masks_every_client_adds_its_share_of_the_noise_of_private_clients():
    settled = settle(config_from_table({**MASKED, **PRIVATE, "dp-clip": 0.3}))
    privacy, task = privacy_of(settled.config), settled.plan.settings
    assert (settled.config.norm_bound, task.secure_aggregation) == ("off", True)
    assert masked_of(settled.config).privacy == privacy
    assert (privacy.clients, privacy.guaranteed) == (100, 67)
    assert (task.client_noise, task.client_clip, task.client_cohort) == (privacy.noise_multiplier, 0.3, 100)
    assert privacy.epsilon_after(settled.config.rounds) <= 8.0
    assert settled.config.dp_delta == 1e-5
    assert not settle(config_from_table(PRIVATE)).plan.settings.adds_share


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dp-epsilon": 0.0}, "dp-epsilon is 0 and dp is 'client', expected an epsilon"),
        ({"dp": "off"}, "dp-epsilon is 8.0 and dp is 'off', expected dp-epsilon 0.0 or dp client or dp record"),
        ({"dp": "off", "dp-epsilon": 0.0, "dp-clip": 1.0}, "dp-clip is 1.0 and dp is 'off'"),
        ({"dp-epsilon": 1e-6, "dp-delta": 1e-12}, "dp-epsilon is 1e-06 and rounds is 5, which takes noise of .* times"),
        ({"dp-delta": 0.01}, r"dp-delta is 0.01 and clients is 100, expected less than 1 / clients = 0.01"),
        ({"dp": "record", "max-grad-norm": 0.5}, r"max-grad-norm is .* and dp is 'record', expected max-grad-norm"),
    ],
)
def test_what_a_private_run_cannot_have_is_refused_in_one_line_with_both_settings(given, message):
    with pytest.raises(ConfigError, match=message) as refused:
        settle(config_from_table({**PRIVATE, **given}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("more", [{}, {"rule": "median"}, {"dropout": 0.1}])
def test_private_records_are_in_the_settings_that_clients_get_and_go_with_every_rule(more):
    settled = settle(config_from_table({**OF_RECORDS, **more}))
    task = settled.plan.settings
    assert privacy_of(settled.config) is None
    assert (task.record_delta, task.record_epsilon, task.record_clip) == (1e-5, 8.0, 0.0)
    assert (settled.config.norm_bound, settled.config.select) == ("10", "last")
    # A learning rate that is found in the data is not private.
    assert task.learning_rate > 0
    given = {"dp": "record", "dp-epsilon": 0.7, "dp-clip": 0.3, "dp-delta": 1e-6}
    task = settle(config_from_table(given)).plan.settings
    assert (task.record_delta, task.record_epsilon, task.record_clip) == (1e-6, 0.7, 0.3)
    assert not settle(config_from_table(PRIVATE)).plan.settings.records_are_private


def test_a_private_run_turns_off_what_reads_single_clients_and_its_noise_follows_from_epsilon_and_rounds():
    settled = settle(config_from_table(PRIVATE))
    assert (settled.config.norm_bound, settled.plan.watch) == ("off", Watch())
    few, many = (privacy_of(settle(config_from_table({**PRIVATE, "rounds": rounds})).config) for rounds in (5, 500))
    assert many.noise_multiplier == pytest.approx(10 * few.noise_multiplier)
    assert many.epsilon_after(500) == pytest.approx(8.0)


OF_CLIENTS = {**PRIVATE, "dp-clip": 1.0}
TAKEN_AND_NEEDED: list[tuple[Mapping[str, object], str, Mapping[str, object], Trait]] = [
    (MASKED, "secure-aggregation", {"norm-bound": 10}, Trait.SINGLE_UPDATES),
    (MASKED, "secure-aggregation", {"rule": "median"}, Trait.LINEAR),
    (OF_CLIENTS, "dp", {"weighting": "examples"}, Trait.FIGURES),
    (OF_CLIENTS, "dp", {"rule": "zeropad", "client-ranks": "4,8"}, Trait.ONE_RANK),
    (OF_RECORDS, "dp", {"trainer": "mine:trainer"}, Trait.OWN_LOSS),
    (OF_RECORDS, "dp", {"lr-schedule": "slope"}, Trait.SLOPES),
    ({"trainer": "mine:build"}, "trainer", {"objective": "dpo"}, Trait.OWN_LOSS),
    ({"loss": "mine:loss"}, "loss", {"objective": "dpo"}, Trait.OWN_LOSS),
    ({"labels": "a,b"}, "labels", {"objective": "dpo"}, Trait.LANGUAGE),
    ({"rounds-mode": "async"}, "rounds-mode", {"rule": "rolora"}, Trait.SAME_SIDES),
    ({"rounds-mode": "async"}, "rounds-mode", {"deadline-s": 5.0}, Trait.WAITS),
    ({"rounds-mode": "async"}, "rounds-mode", MASKED, Trait.RELEASED),
    ({"personalize": 0.5}, "personalize", {"rule": "fedsa"}, Trait.ALL_SHARED),
    ({"rule": "flexlora"}, "rule", {"method": "ia3"}, Trait.FACTORS),
    ({"rule": "fedsb"}, "rule", {"method": "lora"}, Trait.SQUARES),
    ({"client-ranks": "2,8"}, "client-ranks", {"rule": "median"}, Trait.ONE_RANK),
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
