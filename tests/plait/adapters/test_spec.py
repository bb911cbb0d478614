"""Specs, parents and bases of adapters."""

from dataclasses import replace

import pytest

from plait.adapters import AdapterSpec, AdapterTask, BaseReference, Layout, Parent, parents_from
from plait.errors import PeerError

SPEC = AdapterSpec(
    method="lora",
    peft_config={"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]},
    task=AdapterTask.CLASSIFICATION,
    labels=("ham", "spam"),
    layout=Layout.of({"a": [8, 4], "b": [4, 8]}),
    init_seed=7,
)


def test_what_travels_is_all_but_the_layout():
    assert SPEC.to_json() == {
        "method": "lora",
        "peft_config": {"lora_alpha": 16, "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]},
        "task": "classification",
        "labels": ["ham", "spam"],
        "init_seed": 7,
    }


@pytest.mark.parametrize(
    "key", ["base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"]
)
def test_where_the_base_lies_and_who_saved_it_do_not_change_the_digest(key):
    assert replace(SPEC, peft_config={**SPEC.peft_config, key: "other"}).digest == SPEC.digest


@pytest.mark.parametrize(
    "change",
    [
        {"method": "dora"},
        {"peft_config": {**SPEC.peft_config, "lora_alpha": 32}},
        {"task": AdapterTask.CAUSAL_LM},
        {"labels": ("spam", "ham")},
        {"layout": Layout.of({"a": [8, 4], "b": [8, 4]})},
        {"init_seed": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_other_difference_changes_the_digest(change):
    assert replace(SPEC, **change).digest != SPEC.digest


DIGEST = "0f" * 32


def test_what_was_written_is_read_again():
    parents = (Parent(DIGEST), Parent("a" * 64, -0.5))
    assert parents_from([parent.to_json() for parent in parents]) == parents
    assert parents_from(None) == ()


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [3],
        [{"digest": "x", "weight": 1.0}],
        [{"digest": DIGEST, "weight": True}],
        [{"digest": DIGEST, "weight": float("nan")}],
        [{"digest": DIGEST, "weight": 1.0}] * 300,
    ],
)
def test_anything_else_is_the_peers_fault(value):
    with pytest.raises(PeerError, match="parent"):
        parents_from(value)


FINGERPRINT = "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "mistralai/Mistral-7B-v0.3"])
def test_owner_and_model_make_a_hub_id(name):
    assert BaseReference(name, "main", FINGERPRINT).hub_id == name


@pytest.mark.parametrize(
    "name",
    ["/home/me/base", "./bases/tiny", "../base", "C:\\bases\\tiny", "smollm2-135m", "a/b/c", "a/b\n", "a/", "/a", ""],
)
def test_a_path_or_a_nickname_makes_none(name):
    assert BaseReference(name, None, FINGERPRINT).hub_id is None


def test_a_directory_that_reads_like_a_hub_id_makes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bases" / "tiny").mkdir(parents=True)
    assert BaseReference("bases/tiny", None, FINGERPRINT).hub_id is None


@pytest.mark.parametrize("fingerprint", ["", FINGERPRINT[1:], FINGERPRINT.upper(), FINGERPRINT + "\n"])
def test_anything_but_64_hexadecimal_digits_is_no_fingerprint(fingerprint):
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits"):
        BaseReference("owner/model", None, fingerprint)
