from dataclasses import replace

import pytest

from plait.adapters import AdapterSpec, Layout, Task

SPEC = AdapterSpec(
    method="lora",
    peft_config={"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]},
    task=Task.CLASSIFICATION,
    labels=("ham", "spam"),
    layout=Layout.of({"a": [8, 4], "b": [4, 8]}),
    init_seed=7,
)


def test_rank_and_alpha_are_read_from_the_configuration() -> None:
    assert (SPEC.rank, SPEC.alpha) == (8, 16.0)
    prompt = replace(SPEC, peft_config={"peft_type": "PROMPT_TUNING"})
    assert (prompt.rank, prompt.alpha) == (None, None)


def test_what_travels_is_all_but_the_layout() -> None:
    assert SPEC.to_json() == {
        "method": "lora",
        "peft_config": {"lora_alpha": 16, "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]},
        "task": "classification",
        "labels": ["ham", "spam"],
        "init_seed": 7,
    }


@pytest.mark.parametrize(
    "place",
    [
        {"base_model_name_or_path": "/home/me/base"},
        {"revision": "main"},
        {"inference_mode": True},
        {"peft_version": "0.18.0"},
        {"auto_mapping": {"parent_library": "os"}},
    ],
    ids=lambda place: next(iter(place)),
)
def test_where_the_base_lies_and_who_saved_it_do_not_change_the_digest(place: dict) -> None:
    assert replace(SPEC, peft_config={**SPEC.peft_config, **place}).digest == SPEC.digest


@pytest.mark.parametrize(
    "change",
    [
        {"method": "dora"},
        {"peft_config": {**SPEC.peft_config, "lora_alpha": 32}},
        {"task": Task.CAUSAL_LM},
        {"labels": ("spam", "ham")},
        {"layout": Layout.of({"a": [8, 4], "b": [8, 4]})},
        {"init_seed": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_other_difference_changes_the_digest(change: dict) -> None:
    assert replace(SPEC, **change).digest != SPEC.digest


def test_the_order_of_configuration_keys_does_not_change_the_digest() -> None:
    turned = dict(reversed(SPEC.peft_config.items()))
    assert list(turned) != list(SPEC.peft_config)
    assert replace(SPEC, peft_config=turned).digest == SPEC.digest
