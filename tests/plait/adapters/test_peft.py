"""PEFT directories and their cards."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from plait.adapters import (
    AdapterSpec,
    AdapterState,
    AdapterTask,
    BaseReference,
    Layout,
    model_card,
    save_peft_directory,
)
from plait.adapters.peft_reading import load_peft_directory, load_state
from plait.errors import PeerError

FINGERPRINT = "ab" * 32
BASE = BaseReference("owner/model", "v1", FINGERPRINT)
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
A, B = "base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"
SPEC = AdapterSpec(
    method="lora",
    peft_config=CONFIG,
    task=AdapterTask.CAUSAL_LM,
    labels=(),
    layout=Layout.of({A: [2, 3], B: [4, 2]}),
    init_seed=7,
)
STATE = AdapterState(SPEC.layout, np.arange(14, dtype=np.float32))


def save(path: Path, *, spec: AdapterSpec = SPEC, state: AdapterState = STATE, base: BaseReference = BASE) -> Path:
    save_peft_directory(path, spec=spec, state=state, base=base, card="# card\n")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "adapter")


# --- PEFT itself


def tiny_base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def tiny_peft_model() -> PeftModel:
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(tiny_base(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    return model


def weights_of(model: PeftModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in get_peft_model_state_dict(model).items()}


def assert_equal_tensors(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        np.testing.assert_array_equal(tensor, right[name])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_what_plait_saved_into_equal_weights_and_logits(tmp_path):
    model = tiny_peft_model()
    model.save_pretrained(tmp_path / "theirs")
    adapter = load_peft_directory(tmp_path / "theirs")
    assert (adapter.base_name, adapter.provenance) == (None, None)
    state = AdapterState.from_tensors(adapter.spec().layout, adapter.tensors)
    # With the name of a directory PEFT does not look for the base on the hub.
    model.config.save_pretrained(tmp_path / "base")
    base = replace(BASE, name=str(tmp_path / "base"), revision=None)
    save(tmp_path / "ours", spec=adapter.spec(), state=state, base=base)
    loaded = PeftModel.from_pretrained(tiny_base(), tmp_path / "ours")
    assert_equal_tensors(weights_of(loaded), weights_of(model))
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model.eval()(tokens).logits, rtol=0, atol=0)


# --- there and back


def test_everything_comes_back_as_it_was_saved(tmp_path):
    labels = ("ham", 'sp"am', "Größe")
    spec = replace(
        SPEC, labels=labels, task=AdapterTask.CLASSIFICATION, peft_config={**SPEC.peft_config, "task_type": "SEQ_CLS"}
    )
    path = save(tmp_path / "adapter", spec=spec)
    adapter = load_peft_directory(path)
    assert (adapter.base_name, adapter.revision, adapter.base_fingerprint) == ("owner/model", "v1", FINGERPRINT)
    assert adapter.spec() == spec
    assert adapter.spec().digest == spec.digest
    assert load_state(path, spec).digest() == STATE.digest()


def test_equal_adapters_are_equal_bytes(saved, tmp_path):
    again = save(tmp_path / "again", spec=replace(SPEC, peft_config=dict(reversed(CONFIG.items()))))
    for path in saved.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_saving_replaces_the_adapter_before_and_leaves_nothing_beside_it(saved):
    (saved / "stale.txt").write_text("from the round before")
    doubled = AdapterState(SPEC.layout, STATE.flat * 2)
    save(saved, state=doubled)
    assert not (saved / "stale.txt").exists()
    assert load_state(saved, SPEC).digest() == doubled.digest()
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# --- adapters that are not the expected one


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_alpha": 8}, "lora_alpha of the adapter in .* is 4, expected 8"),
        ({"use_rslora": True}, "use_rslora of the adapter in .* is None, expected True"),
        ({"peft_type": "LOHA"}, "peft_type of the adapter in .* is 'LORA', expected 'LOHA'"),
    ],
)
def test_the_same_tensors_with_another_meaning_are_refused(saved, config, message):
    with pytest.raises(PeerError, match=message):
        load_state(saved, replace(SPEC, peft_config={**CONFIG, **config}))


def test_a_configuration_changed_after_saving_gives_no_spec(saved):
    set_config(lora_alpha=1000)(saved)
    with pytest.raises(PeerError, match="is not the one that was written with"):
        load_peft_directory(saved).spec()


@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM", ["CAUSAL_LM"]])
def test_a_task_that_plait_does_not_have_gives_no_spec(saved, task_type):
    set_config(task_type=task_type)(saved)
    with pytest.raises(PeerError, match="task_type of"):
        load_peft_directory(saved).spec()


# --- hostile directories


def set_config(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    return change


def set_config_text(text: bytes) -> Callable[[Path], None]:
    return lambda path: (path / "adapter_config.json").write_bytes(text) and None


def set_provenance(text: str | None = None, **changes: object) -> Callable[[Path], None]:
    facts = {"base_fingerprint": FINGERPRINT, "init_seed": 7, "labels": [], "method": "lora", "spec_digest": "00"}

    def change(path: Path) -> None:
        metadata = {"format": "pt", "plait": json.dumps({**facts, **changes}) if text is None else text}
        save_file(dict(STATE.items()), path / "adapter_model.safetensors", metadata=metadata)

    return change


def only_pickle(path: Path) -> None:
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


def with_nan(path: Path) -> None:
    tensors = {**dict(STATE.items()), A: np.full((2, 3), np.nan, np.float32)}
    save_file(tensors, path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (only_pickle, "holds only adapter_model.bin, which can run code"),
        (lambda path: (path / "adapter_config.json").unlink(), "cannot read .*"),
        (with_nan, "lora_A.weight' holds NaN"),
        (set_config_text(b""), "is not JSON"),
        (set_config_text(b" " * (1 << 21)), "expected at most 1048576"),
        (set_config(peft_type="LORA\x1b[2J"), "peft_type of the adapter is"),
        (set_config(base_model_name_or_path="a\nb"), "base_model_name_or_path of the adapter is"),
        (set_provenance("{"), "provenance is not JSON"),
        (set_provenance(base_fingerprint="AB" * 32), "base_fingerprint of the adapter is"),
        (set_provenance(init_seed=True), "init_seed of the adapter is"),
        (set_provenance(labels=["\x1b[2J"]), "a label of the adapter is"),
        (set_provenance(spec_digest=7), "spec_digest of the adapter is"),
    ],
)
def test_hostile_directories_are_refused_saying_why(saved, spoil, message):
    spoil(saved)
    with pytest.raises(PeerError, match=message) as refusal:
        load_peft_directory(saved)
    assert str(refusal.value).isprintable()


OF_CARD = AdapterSpec(
    method="lora",
    peft_config={"peft_type": "LORA", "r": 8, "lora_alpha": 16},
    task=AdapterTask.CAUSAL_LM,
    labels=(),
    layout=Layout.of({"a": [8, 400]}),
    init_seed=0,
)


def card(name: str = "run", spec: AdapterSpec = OF_CARD, base: BaseReference = BASE) -> str:
    return model_card(
        name=name,
        spec=spec,
        base=base,
        facts={"rounds": 5, "clients": 8, "base_held_out_loss": 3.25, "final_held_out_loss": 2.5},
    )


def front_matter(text: str) -> dict[str, object]:
    opening, block, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(block)


def test_the_hub_finds_base_library_task_and_tags():
    assert front_matter(card()) == {
        "library_name": "peft",
        "base_model": "owner/model",
        "pipeline_tag": "text-generation",
        "tags": ["plait", "federated-learning", "lora"],
    }


def test_a_local_path_stays_off_the_card():
    text = card(base=replace(BASE, name="/home/alice/secret/base"))
    assert "base_model" not in front_matter(text)
    assert "alice" not in text


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "x\n---\nbase_model: evil/model\n---",
        "[click](javascript:alert(1))",
        "run | 9 |\n| Rounds | 99",
        "```\n# heading",
        "\u202egnp.exe",
    ],
)
def test_markup_in_a_name_or_a_label_stays_text(name):
    spec = replace(OF_CARD, task=AdapterTask.CLASSIFICATION, labels=(name, "b"))
    text, plain = card(name, spec), card("run", replace(spec, labels=("a", "b")))
    assert front_matter(text) == front_matter(plain)
    assert text.count("\n") == plain.count("\n")
    assert text.count("```") == plain.count("```") == 2
    assert [line.count("|") - line.count("\\|") for line in text.splitlines()] == [
        line.count("|") for line in plain.splitlines()
    ]
    assert not any(markup in text for markup in ("<", "![", "](", "://", "\u202e"))
