"""The allow-list of PEFT's configurations, key by key, and specs from another party."""

import dataclasses
import json

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from plait.adapters import AdapterTask, parse_spec
from plait.adapters.methods import METHODS
from plait.adapters.peft_settings import _TABLES, checked_settings
from plait.adapters.spec import PLACE_KEYS
from plait.errors import PeerError
from plait.training import bottleneck

bottleneck.register()

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
LORA_XS = {
    "peft_type": "PSOFT", "r": 8, "target_modules": ["q_proj"], "psoft_orth": False, "psoft_mag_a": False,
    "psoft_mag_b": False, "psoft_svd": "lowrank",
}  # fmt: skip
PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20}
P_TUNING = {"peft_type": "P_TUNING", "num_virtual_tokens": 20, "encoder_hidden_size": 128}
VERA = {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj"]}
IA3 = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}
PEANUT = {"peft_type": "PEANUT", "r": 8, "target_modules": ["q_proj"]}
BOTTLENECK = {"peft_type": "BOTTLENECK", "r": 8, "target_modules": ["o_proj"]}
FULL = {"peft_type": "LN_TUNING", "target_modules": ["norm"]}
EVERY = [LORA, LORA_XS, PROMPT, PREFIX, P_TUNING, VERA, IA3, PEANUT, BOTTLENECK, FULL]

NESTED = "(a+)+$"
HOSTILE = [
    *((base, {key: NESTED}) for base in (LORA, IA3, FULL) for key in ("target_modules", "exclude_modules")),
    *((base, {key: [NESTED]}) for base in (LORA, IA3, FULL) for key in ("target_modules", "exclude_modules")),
    *((base, {"modules_to_save": [NESTED]}) for base in EVERY),
    *((base, {"layers_pattern": [NESTED]}) for base in (LORA, LORA_XS, VERA, PEANUT)),
    (LORA, {"rank_pattern": {"q_proj": 4}}),
    (LORA, {"bias": "all"}),
    (LORA, {"target_modules": [f"m{n}" for n in range(10_000)]}),
    (LORA, {"target_modules": ["a..b"]}),
    (LORA, {"target_modules": []}),
    (LORA, {"target_modules": None}),
    (IA3, {"feedforward_modules": NESTED}),
    *((base, {"r": rank}) for base in (LORA, LORA_XS, VERA, PEANUT) for rank in (200_000, 1 << 30, 0, 8.0, True, "8")),
    *((BOTTLENECK, {"r": rank}) for rank in (200_000, 1 << 30, 0, 8.0, True, "8")),
    (LORA, {"lora_alpha": 1e300}),
    (LORA, {"lora_dropout": 2}),
    (LORA, {"use_dora": 1}),
    *((LORA, {"init_lora_weights": init}) for init in ("pissa", "pissa_niter_100000000", "olora", "corda", "loftq", 1)),
    (LORA, {"trainable_token_indices": [1]}),
    (LORA, {"layer_replication": [[0, 1 << 30]]}),
    (LORA, {"target_parameters": [NESTED]}),
    (LORA, {"corda_config": {"cache_file": "evil.pt"}}),
    (LORA, {"layers_to_transform": list(range(10_000))}),
    (LORA, {"a_key_of_tomorrow": "on"}),
    *((LORA_XS, {key: value}) for key, value in [
        ("psoft_orth", True), ("psoft_mag_a", True), ("psoft_svd", "full"), ("psoft_svd_lowrank_niter", 1 << 30),
        ("use_cayley_neumann", True), ("num_cayley_neumann_terms", 1 << 30), ("r", 4096), ("random_seed", -1),
    ]),
    *((base, {"num_virtual_tokens": tokens}) for base in (PROMPT, PREFIX, P_TUNING) for tokens in (1 << 30, 0, None)),
    *((base, {key: 1 << 30}) for base in (PROMPT, PREFIX, P_TUNING) for key in ("token_dim", "num_layers")),
    *((PROMPT, {key: value}) for key, value in [
        ("prompt_tuning_init", "TEXT"), ("tokenizer_name_or_path", "/etc"), ("tokenizer_kwargs", {"a": 1}),
        ("prompt_tuning_init_text", "hello"), ("prompt_tuning_init_state_dict_path", "evil.bin"),
    ]),
    (PREFIX, {"prefix_projection": True}),
    (P_TUNING, {"encoder_reparameterization_type": "LSTM"}),
    (P_TUNING, {"encoder_num_layers": 100_000_000}),
    (PEANUT, {"depth": 100_000_000}),
    (PEANUT, {"act_fn": "__import__"}),
    (BOTTLENECK, {"layers_pattern": NESTED}),
    (VERA, {"projection_prng_key": -1}),
    (LORA, {"peft_type": "ADALORA"}),
    (LORA, {"task_type": "SEQ_2_SEQ_LM"}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "changed"), HOSTILE, ids=lambda value: "-".join(f"{value}".split())[:60])
def test_what_is_outside_its_range_is_refused_by_name(settings, changed):
    with pytest.raises(PeerError, match=f"^{next(iter(changed))} of the adapter is .*, expected ") as refusal:
        checked_settings({**settings, **changed}, what="the adapter")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("value", [NESTED, "/outside", 2**64, {NESTED: 2**31}, [[[["x"]]]]], ids=str)
@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: settings["peft_type"])
def test_no_key_of_pefts_takes_an_expression_a_path_a_table_a_deep_list_or_a_number_without_end(settings, value):
    for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]]):
        with pytest.raises(PeerError):
            checked_settings({**settings, field.name: value}, what="the adapter")


@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: settings["peft_type"])
def test_ordinary_settings_pass_as_they_are(settings):
    assert checked_settings(settings, what="it") == settings


def test_what_is_off_is_left_out_whatever_its_name():
    off = {"corda_config": None, "eva_config": None, "loftq_config": {}, "enable_lora": False, "a_new_key": []}
    assert checked_settings({**LORA, **off}, what="it") == LORA


@pytest.mark.parametrize("kind", sorted({method.peft_type for method in METHODS.values()}))
def test_every_default_of_peft_passes_or_is_off(kind):
    """So a directory that PEFT wrote with a setting left alone is never refused for it."""
    needed = {"psoft_orth": False, "psoft_mag_a": False, "psoft_mag_b": False, "psoft_svd": "lowrank"}
    given: dict[str, object] = {"peft_type": kind}
    for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind]):
        if field.name in PLACE_KEYS or field.name in ("peft_type", "target_modules", "num_virtual_tokens"):
            continue
        if field.default is not dataclasses.MISSING and field.name != "runtime_config":
            given[field.name] = getattr(field.default, "value", field.default)
    given.update({key: value for key, value in needed.items() if key in _TABLES[kind].rules})
    given.update({"target_modules": ["q"]} if "target_modules" in _TABLES[kind].rules else {"num_virtual_tokens": 4})
    checked_settings(given, what="it")


@pytest.mark.parametrize("kind", sorted(_TABLES))
def test_every_key_of_a_table_is_one_that_peft_takes(kind):
    known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    assert set(_TABLES[kind].rules) <= known
    assert issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PeftConfig)


def test_a_key_whose_default_in_peft_is_something_else_must_be_there():
    without = {key: value for key, value in LORA_XS.items() if key != "psoft_svd"}
    with pytest.raises(PeerError, match="psoft_svd of the adapter is missing, expected 'lowrank'"):
        checked_settings(without, what="the adapter")


def test_the_table_has_every_method_under_pefts_own_type():
    assert {method.peft_type for method in METHODS.values()} == set(_TABLES) <= PEFT_TYPE_TO_CONFIG_MAPPING.keys()


CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["k_proj", "q_proj"],
}  # fmt: skip
SPEC = {"method": "lora", "peft_config": CONFIG, "task": "causal-lm", "labels": [], "init_seed": 7}
CLASSIFIER = {
    **SPEC,
    "task": "classification",
    "labels": ["a", "b"],
    "peft_config": {**CONFIG, "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]},
}


def test_a_spec_says_what_it_asks_for_before_anything_is_built():
    spec = parse_spec(json.dumps({**CLASSIFIER, "init_rank": 16}))
    assert (spec.method, spec.task, spec.labels) == ("lora", AdapterTask.CLASSIFICATION, ("a", "b"))
    assert (spec.init_seed, spec.init_rank, spec.rank) == (7, 16, 8)
    assert spec.peft_config["target_modules"] == ["k_proj", "q_proj"]
    assert spec.peft_config["modules_to_save"] == ["classifier", "score"]
    assert "num_virtual_tokens" not in spec.peft_config


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "adalora"}, "method of the adapter spec is 'adalora', expected one of lora"),
        ({"method": "vera"}, "peft_type of the adapter spec is 'LORA', expected 'VERA' of method 'vera'"),
        ({"method": "dora"}, "use_dora of the adapter spec is False, expected True of method 'dora'"),
        ({"peft_config": {**CONFIG, "use_dora": True}}, "use_dora of the adapter spec is True, expected False"),
        ({"peft_config": []}, "peft_config of the adapter spec is"),
        ({"peft_config": {**CONFIG, "task_type": "SEQ_CLS"}}, "task_type of the adapter spec is 'SEQ_CLS'"),
        ({"peft_config": {**CONFIG, "base_model_name_or_path": "/etc"}}, "base_model_name_or_path of the adapter"),
        ({"task": "juggle"}, "task of the adapter spec is 'juggle'"),
        ({"labels": ["a"]}, "labels of the adapter spec are .* none of a language model"),
        ({"init_seed": 1 << 64}, "init_seed of the adapter spec is"),
        ({"init_rank": 1 << 30}, "init_rank of the adapter spec is"),
        ({"extra": 1}, "'extra' of the adapter spec is unknown"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed, message):
    with pytest.raises(PeerError, match=message) as refusal:
        parse_spec(json.dumps({**SPEC, **changed}))
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        json.dumps(SPEC)[:-1] + ',"method":"vera"}',
        json.dumps(SPEC).replace("7", "NaN"),
        json.dumps(SPEC).replace("7", "9" * 10_000),
        json.dumps(SPEC).replace("lora", "\ud800"),
        " " * (1 << 20) + json.dumps(SPEC),
    ],
    ids=["empty", "a-list", "deep", "twice", "nan", "digits", "surrogate", "large"],
)
def test_json_that_is_no_spec_is_the_peers_fault(text):
    with pytest.raises(PeerError):
        parse_spec(text)
