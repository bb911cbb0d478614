"""A spec from another party, parsed without PEFT."""

from __future__ import annotations

import json

import pytest

from plait.adapters import Task, parse_spec
from plait.errors import PeerError

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


def test_a_spec_says_what_it_asks_for_before_anything_is_built() -> None:
    request = parse_spec(json.dumps({**CLASSIFIER, "init_rank": 16}))
    assert (request.method, request.task, request.labels) == ("lora", Task.CLASSIFICATION, ("a", "b"))
    assert (request.seed, request.init_rank, request.rank) == (7, 16, 8)
    assert request.targets == ("k_proj", "q_proj")
    assert request.peft_config["modules_to_save"] == ["classifier", "score"]
    assert request.virtual_tokens == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "adalora"}, "method of the adapter spec is 'adalora', expected one of lora"),
        ({"method": ["lora"]}, "method of the adapter spec is"),
        ({"method": "vera"}, "peft_type of the adapter spec is 'LORA', expected 'VERA' of method 'vera'"),
        ({"method": "dora"}, "use_dora of the adapter spec is False, expected True of method 'dora'"),
        ({"peft_config": {**CONFIG, "use_dora": True}}, "use_dora of the adapter spec is True, expected False"),
        ({"peft_config": {**CONFIG, "use_rslora": True}}, "use_rslora of the adapter spec is True, expected False"),
        ({"peft_config": []}, "peft_config of the adapter spec is"),
        ({"peft_config": {**CONFIG, "task_type": "SEQ_CLS"}}, "task_type of the adapter spec is 'SEQ_CLS'"),
        ({"peft_config": {**CONFIG, "task_type": None}}, "task_type of the adapter spec is None"),
        ({"peft_config": {**CONFIG, "inference_mode": True}}, "inference_mode of the adapter spec is True"),
        ({"peft_config": {**CONFIG, "base_model_name_or_path": "/etc"}}, "base_model_name_or_path of the adapter"),
        ({"task": "juggle"}, "task of the adapter spec is 'juggle'"),
        ({"task": ["causal-lm"]}, "task of the adapter spec is"),
        ({"labels": "ab"}, "labels of the adapter spec are"),
        ({"labels": [1]}, "a label of the adapter spec is 1"),
        ({"labels": ["\x1b[2J"]}, "a label of the adapter spec is"),
        ({"labels": ["a"]}, "labels of the adapter spec are .* none of a language model"),
        ({"init_seed": True}, "init_seed of the adapter spec is True"),
        ({"init_seed": -1}, "init_seed of the adapter spec is -1"),
        ({"init_seed": 1 << 64}, "init_seed of the adapter spec is"),
        ({"init_rank": 1 << 30}, "init_rank of the adapter spec is"),
        ({"init_rank": "8"}, "init_rank of the adapter spec is"),
        ({"extra": 1}, "'extra' of the adapter spec is unknown"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict, message: str) -> None:
    with pytest.raises(PeerError, match=message) as refusal:
        parse_spec(json.dumps({**SPEC, **changed}))
    assert str(refusal.value).isprintable()


def test_labels_must_differ() -> None:
    with pytest.raises(PeerError, match="expected different names"):
        parse_spec(json.dumps({**CLASSIFIER, "labels": ["a", "a"]}))


@pytest.mark.parametrize("key", sorted(SPEC))
def test_every_part_must_be_there(key: str) -> None:
    with pytest.raises(PeerError, match=f"'{key}' of the adapter spec is missing"):
        parse_spec(json.dumps({name: value for name, value in SPEC.items() if name != key}))


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
def test_json_that_is_no_spec_is_the_peers_fault(text: str) -> None:
    with pytest.raises(PeerError):
        parse_spec(text)
