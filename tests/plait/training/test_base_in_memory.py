import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import plait
from plait.errors import ConfigError
from plait.training.base_cache import kept_base
from plait.training.bases import locate_base

ROWS = [{"text": f"line {number} of a small book\n" * 12, "who": "ab"[number % 2]} for number in range(24)]
SMALL = {
    "partition": "natural:who", "clients": 2, "rounds": 1, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2,
    "dtype": "float32", "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    directory = locate_base("tiny").directory
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", trust_remote_code=False)
    return model, AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


@pytest.fixture
def model(tiny):
    return tiny[0]


@pytest.fixture
def tokenizer(tiny):
    return tiny[1]


@pytest.mark.slow
def test_a_model_in_memory_is_trained_like_the_same_one_on_disk_and_is_not_changed(model, tokenizer, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = plait.simulate(ROWS, base=model, tokenizer=tokenizer, out=tmp_path / "held", **SMALL)
    named = plait.simulate(ROWS, base="tiny", out=tmp_path / "named", **SMALL)
    # The files name their bases, which are called differently.
    held_tensors, named_tensors = (load_file(run.adapter() / "adapter_model.safetensors") for run in (held, named))
    assert held_tensors.keys() == named_tensors.keys()
    assert all(torch.equal(tensor, named_tensors[name]) for name, tensor in held_tensors.items())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_kept_under_what_it_is(model, tokenizer):
    place = kept_base(model, tokenizer)
    assert kept_base(model, tokenizer) == place
    changed = AutoModelForCausalLM.from_pretrained(place, dtype="auto", trust_remote_code=False)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1
    assert kept_base(changed, tokenizer) != place


class OwnModel(torch.nn.Module):
    pass


def test_what_others_could_not_load_is_refused_with_its_reason(model, tokenizer):
    with pytest.raises(ConfigError, match="its tokenizer is missing"):
        kept_base(model, None)
    with pytest.raises(ConfigError, match="base is a OwnModel, expected"):
        kept_base(OwnModel(), tokenizer)
    own_code = type("Own", (type(model),), {"__module__": "my_models"})(model.config)
    with pytest.raises(ConfigError, match="code of its own"):
        kept_base(own_code, tokenizer)
    with torch.device("meta"):
        empty = type(model)(model.config)
    with pytest.raises(ConfigError, match="no values for"):
        kept_base(empty, tokenizer)
    copy = AutoModelForCausalLM.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)
    with pytest.raises(ConfigError, match="has an adapter on it"):
        kept_base(get_peft_model(copy, LoraConfig(r=2, target_modules=["q_proj"])), tokenizer)
