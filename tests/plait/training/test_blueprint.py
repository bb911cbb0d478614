import json

import pytest
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig, PreTrainedModel

from plait.adapters import AdapterTask, parse_spec
from plait.adapters.method import AdapterRequest
from plait.adapters.methods import METHODS
from plait.errors import ConfigError, PeerError
from plait.training.bases import LocatedBase
from plait.training.blueprint import design, design_from_spec, read_base_config
from plait.training.peft_adapter import adapter_size, peft_config_of


def test_layout_is_what_peft_makes_on_the_real_base(tiny, blueprint):
    model = AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False)
    real = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    shapes = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(real).items()}
    assert {slot.name: slot.shape for slot in blueprint.spec.layout.slots} == shapes
    assert blueprint.base_parameters == model.num_parameters() - sum(
        p.numel() for p in real.parameters() if p.requires_grad
    )


@pytest.mark.slow
def test_a_70b_base_costs_no_memory_for_its_weights():
    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    made = design(config, AdapterRequest(rank=1, target_modules="q_proj"), task=AdapterTask.CAUSAL_LM, seed=0)
    assert made.base_parameters == 70_553_706_496  # the published size of Llama 3 70B
    assert made.spec.layout.size == 80 * (8192 + 8192)


def test_an_adapter_that_clients_would_refuse_is_refused_at_once(tiny):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    with pytest.raises(ConfigError, match=r"clients would refuse .*: r of the adapter spec is 5000, expected .* 4096"):
        design(config, AdapterRequest(rank=5000, target_modules="k_proj"), task=AdapterTask.CAUSAL_LM, seed=0)


def test_an_adapter_larger_than_its_base_is_refused_from_shapes(tiny, blueprint, monkeypatch):
    monkeypatch.setattr("plait.training.peft_adapter.SMALL", 1 << 20)
    monkeypatch.setattr("plait.training.peft_adapter.get_peft_model", lambda *_, **__: pytest.fail("PEFT was asked"))
    spec = json.loads(blueprint.spec.text)
    spec["peft_config"]["r"] = 4096
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    with pytest.raises(ConfigError, match=r"the adapter would have \d+ parameters, expected at most \d+ on this base"):
        design_from_spec(config, parse_spec(json.dumps(spec)))


@pytest.fixture(scope="module")
def bare(tiny: LocatedBase) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_size_told_from_shapes_is_never_below_the_adapters(tiny, bare, method):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    made = design(config, AdapterRequest(method=method, rank=4), task=AdapterTask.CAUSAL_LM, seed=0)
    size = adapter_size(bare, peft_config_of(made.spec.peft_config))
    assert made.spec.layout.size <= size <= bare.num_parameters()


def test_sizes_of_another_base_are_refused(tiny):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    spec = json.loads(design(config, AdapterRequest(method="prompt"), task=AdapterTask.CAUSAL_LM, seed=0).spec.text)
    spec["peft_config"]["token_dim"] = 64
    with pytest.raises(PeerError, match="token_dim of the adapter spec is 64, expected 128 on this base"):
        design_from_spec(config, parse_spec(json.dumps(spec)))


def test_an_encoder_is_no_language_model(tmp_path):
    BertConfig(architectures=["BertModel"]).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConfigError, match=r"the base \(bert\) cannot write text, and the data has no labels"):
        read_base_config(tmp_path / "encoder", AdapterTask.CAUSAL_LM)
    assert read_base_config(tmp_path / "encoder", AdapterTask.CLASSIFICATION, ("a", "b")).num_labels == 2
