from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.errors import BaseMismatchError, ConfigError
from plait.exporting.source import open_source
from plait.features.serving.catalogue import common_base

Start = Callable[..., Any]


@pytest.fixture
def catalogue(start: Start) -> Any:
    return start({}).catalogue


@pytest.mark.slow
def test_an_adapter_is_found_until_it_is_unloaded(catalogue: Any, adapters: dict[str, Path]) -> None:
    model = catalogue.load("mine", adapters["formal"])
    assert catalogue.find("mine") is model
    assert [known.name for known in catalogue.models()] == ["tiny", "mine"]
    assert catalogue.unload("mine")
    assert catalogue.find("mine") is None
    assert not catalogue.unload("mine")


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(catalogue: Any, adapters: dict[str, Path]) -> None:
    first = catalogue.load("mine", adapters["formal"])
    with pytest.raises(ConfigError, match="'mine' has already been loaded"):
        catalogue.load("mine", adapters["casual"])
    assert catalogue.load("mine", adapters["casual"], replace=True).digest != first.digest


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 200, "a\n"])
def test_a_name_that_cannot_be_is_refused(catalogue: Any, adapters: dict[str, Path], name: str) -> None:
    with pytest.raises(ConfigError, match="name of the adapter is"):
        catalogue.load(name, adapters["formal"])


def test_the_base_keeps_its_name(catalogue: Any, adapters: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="is the name of the base"):
        catalogue.load("tiny", adapters["formal"], replace=True)
    with pytest.raises(ConfigError, match="is the base, which stays"):
        catalogue.unload("tiny")


def test_what_is_no_plain_lora_is_refused_with_the_way_round(
    catalogue: Any, write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    dora = write_adapter(tmp_path / "dora", seed=0, r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ConfigError, match=r"is DoRA.*export --to merged, and serve that as --base"):
        catalogue.load("dora", dora)
    assert catalogue.find("dora") is None


def test_a_layer_of_another_shape_is_refused(catalogue: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(adapters["formal"], tmp_path / "other")
    tensors = load_file(other / "adapter_model.safetensors")
    renamed = {name.replace("layers.3", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(renamed, other / "adapter_model.safetensors")
    with pytest.raises(BaseMismatchError, match=r"base 'tiny' has no linear layer 'model\.layers\.7"):
        catalogue.load("other", other)


def test_adapters_of_several_bases_are_told_apart(adapters: dict[str, Path], tiny: Any, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.directory, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    other = shutil.copytree(adapters["formal"], tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    sources = {"a": open_source(adapters["formal"]), "b": open_source(other)}
    with pytest.raises(BaseMismatchError, match=r"adapter 'b' belongs to base .*, the base of 'a'"):
        common_base(sources)
    assert common_base({"a": sources["a"], "c": open_source(adapters["casual"])}) == str(tiny.directory)


def test_an_adapter_of_bottlenecks_is_served_on_its_own_base_only(catalogue: Any, tiny: Any, tmp_path: Path) -> None:
    from peft import get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from plait.training.bottleneck import BottleneckConfig

    base = AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False)
    model = get_peft_model(base, BottleneckConfig(task_type="CAUSAL_LM", r=2, target_modules=["down_proj"]))
    model.save_pretrained(tmp_path / "one", save_embedding_layers=False)
    assert set(catalogue.load("one", tmp_path / "one").adapter.bottlenecks) == {
        f"model.layers.{layer}.mlp.down_proj" for layer in range(4)
    }
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    renamed = {name.replace("layers.3", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "one" / "adapter_model.safetensors")
    with pytest.raises(BaseMismatchError, match=r"'model\.layers\.7\.mlp\.down_proj' .* has no such linear layer"):
        catalogue.load("other", tmp_path / "one")
