"""Training over a base in few bits, and a GGUF file's own blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from plait.adapters import Task, save_peft_directory
from plait.adapters.methods import AdapterRequest
from plait.errors import ConfigError
from plait.features.few_bits.training.base import load_in_few_bits
from plait.features.few_bits.training.formats import Rows
from plait.features.few_bits.training.four_bits import check_four_bits, four_bits, keep_trainable
from plait.features.few_bits.training.layers import FewBitsEmbedding, FewBitsLinear
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute
from plait.training.fused import recognise
from plait.training.resident import ResidentBase
from plait.wire.settings import Settings
from tests.plait.training.test_gguf_base import _caches_in, write
from tests.plait.training.test_methods import TOKENS, settings, trained  # noqa: F401 (a fixture)


@pytest.mark.extra("qlora")
def test_qlora_trains_over_four_bits_and_reloads_over_bitsandbytes(
    tiny: LocatedBase,
    settings: Settings,  # noqa: F811 (the fixture)
    tmp_path: Path,
) -> None:
    # On a CPU bitsandbytes mistakes the scales of a layer whose inputs are no multiple of 64, and tiny has some.
    config = LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    # In some random bases a value lies so near the middle of two codes that both round it differently.
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    compute = Compute(torch.device("cpu"), torch.float32)
    base = ResidentBase(tmp_path / "base", tiny.reference.fingerprint, compute, seq_len=32)
    request = AdapterRequest(method="qlora", rank=4, alpha=8)
    blueprint = design(config, request, task=Task.CAUSAL_LM, seed=7)
    after = trained(base, blueprint, settings)
    model = base.carrying(blueprint.spec, after).eval()
    assert recognise(model) is not None
    assert {type(module).__name__ for name, module in model.named_modules() if name.endswith("base_layer")} == {
        "FewBitsLinear"
    }
    with torch.no_grad():
        expected = model(input_ids=TOKENS).logits
    save_peft_directory(tmp_path / "out", spec=blueprint.spec, state=after, base=tiny.reference, card="")
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, **four_bits(compute), trust_remote_code=False
    )
    keep_trainable(plain)
    reloaded = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    assert recognise(reloaded) is not None, "a base as bitsandbytes loads it is computed by plait's own implementation"
    # bitsandbytes leaves embedding and head whole.
    reloaded.get_input_embeddings().weight.data = model.get_input_embeddings().weight
    reloaded.get_output_embeddings().weight.data = model.get_output_embeddings().weight
    with torch.no_grad():
        got = reloaded(input_ids=TOKENS).logits
        with reloaded.disable_adapter():
            assert (reloaded(input_ids=TOKENS).logits - got).abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_qlora_without_bitsandbytes_or_kernels_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"on device 'mps', expected cpu or cuda.*nearest: method 'lora'"):
        check_four_bits("mps")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_four_bits("cpu")
    with pytest.raises(ConfigError, match="bitsandbytes is not installed, expected `pip install bitsandbytes`"):
        check_four_bits("cuda")


def test_its_own_blocks_are_used_in_few_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _caches_in(tmp_path / "cache", monkeypatch)
    model = write(tmp_path / "a.gguf", "Q4_0")
    directory = locate_base(str(tmp_path / "a.gguf")).directory
    few = load_in_few_bits(
        directory,
        read_base_config(directory, Task.CAUSAL_LM),
        task=Task.CAUSAL_LM,
        compute=Compute(torch.device("cpu"), torch.float32),
        attention="eager",
    )
    packed = [(n, m) for n, m in few.named_modules() if isinstance(m, FewBitsLinear | FewBitsEmbedding)]
    assert len(packed) == 2 * 7 + 2
    for name, module in packed:
        assert isinstance(module.held, Rows)
        assert module.held.form.name == "q4_0"
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(module.weight, weight)
