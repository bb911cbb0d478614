"""A base in four bits, by bitsandbytes."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from plait.adapters import AdapterTask, save_peft_directory
from plait.adapters.method import AdapterRequest
from plait.errors import ConfigError
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute, check_four_bits
from plait.training.fused.language_model import recognise
from plait.training.qlora import Packed, four_bits, keep_trainable
from plait.training.resident import ResidentBase
from tests.plait.training.test_methods import TOKENS, trained


@pytest.mark.extra("qlora")
def test_it_trains_and_reloads_as_transformers_and_peft_load_it(tiny, tmp_path):
    config = LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    compute = Compute(torch.device("cpu"), torch.float32)
    base = ResidentBase(tmp_path / "base", tiny.reference.fingerprint, compute, seq_len=32)
    config = read_base_config(tmp_path / "base", AdapterTask.CAUSAL_LM)
    blueprint = design(config, AdapterRequest(method="qlora", rank=4, alpha=8), task=AdapterTask.CAUSAL_LM, seed=7)
    after = trained(base, blueprint)
    model = base.with_adapter(blueprint.spec, after).eval()
    fused = recognise(model)
    assert all(isinstance(linear.weight, Packed) for block in fused.blocks for linear in block.linears)
    with torch.no_grad():
        expected = model(input_ids=TOKENS).logits
    save_peft_directory(tmp_path / "out", spec=blueprint.spec, state=after, base=tiny.reference, card="")
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, **four_bits(compute), trust_remote_code=False
    )
    keep_trainable(plain)
    reloaded = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    with torch.no_grad():
        got = reloaded(input_ids=TOKENS).logits
        with reloaded.disable_adapter():
            assert (reloaded(input_ids=TOKENS).logits - got).abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_without_bitsandbytes_or_its_kernels_it_is_refused_with_the_nearest(monkeypatch):
    with pytest.raises(ConfigError, match=r"on device 'mps', expected cpu or cuda.*nearest: method 'lora'"):
        check_four_bits("mps")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for device in ("cpu", "cuda"):
        with pytest.raises(ConfigError, match=r"not installed, expected `pip install 'plait\[qlora\]'`"):
            check_four_bits(device)
