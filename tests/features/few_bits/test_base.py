from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.features.few_bits.training import base as few_bits_base
from plait.features.few_bits.training.base import load_in_few_bits
from plait.features.few_bits.training.formats import NormalFloat, Rows
from plait.features.few_bits.training.layers import FewBitsEmbedding, FewBitsLinear
from plait.training.bases import LocatedBase
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute
from plait.training.examples import Example
from plait.training.fused import recognise
from plait.training.losses import summed_loss
from plait.training.memory_plan import size_of
from plait.training.resident import ResidentBase

IN_FLOAT32 = Compute(torch.device("cpu"), torch.float32)
WORDS = 300
SHAPE: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "qwen2, biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False)),
    "gpt2, transposed": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS,
            n_embd=64,
            n_layer=1,
            n_head=4,
            attn_pdrop=0,
            embd_pdrop=0,
            resid_pdrop=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    ),
}


@pytest.fixture(params=MODELS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = MODELS[request.param]()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    return tmp_path


def loaded(directory: Path, compute: Compute = IN_FLOAT32, **options: Any) -> PreTrainedModel:
    config = read_base_config(directory, Task.CAUSAL_LM)
    return load_in_few_bits(directory, config, task=Task.CAUSAL_LM, compute=compute, attention="eager", **options)


def in_full(directory: Path, few: PreTrainedModel) -> PreTrainedModel:
    """transformers' own model with the values of another one's weights."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    for name, module in few.named_modules():
        if isinstance(module, FewBitsLinear | FewBitsEmbedding):
            own = model.get_submodule(name)
            own.weight.data = module.weight.t().contiguous() if isinstance(own, Conv1D) else module.weight
    return model


def taken(few: PreTrainedModel) -> int:
    """Bytes of all values of a base."""
    held = {id(each.held): each.held for each in few.modules() if isinstance(each, FewBitsLinear | FewBitsEmbedding)}
    packed = sum(tensor.nbytes for each in held.values() for tensor in each.tensors)
    return packed + sum(parameter.nbytes for parameter in few.parameters())


def planned(directory: Path, *, value_bytes: int, targets: str = "all-linear", in_eight: bool = False) -> int:
    """What the plan of a step says of them."""
    config = read_base_config(directory, Task.CAUSAL_LM)
    method = "lora" if in_eight else "qlora"
    spec = design(config, AdapterRequest(method, rank=4, target_modules=targets), task=Task.CAUSAL_LM, seed=0).spec
    size = size_of(config, spec, value_bytes=value_bytes, on_cpu=True, in_eight=in_eight, directory=directory)
    assert size is not None
    return size.base_bytes


def adapted(model: PreTrainedModel) -> PeftModel:
    names = [name for name, module in model.named_modules() if ".h." in name or ".layers." in name]
    linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear | Conv1D)]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=linear, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    peft = get_peft_model(model, config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return peft.train()


def gradients(model: PeftModel, loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    found = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


def batch() -> list[Example]:
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, WORDS, length).astype(np.int32) for length in (12, 5, 30)]
    return [Example(row, row) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("in_eight", [False, True])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_it_computes_as_peft_does_on_the_same_values(directory: Path, in_eight: bool) -> None:
    few = loaded(directory, in_eight=in_eight)
    theirs = adapted(in_full(directory, few))
    ours = adapted(few)

    def plain(model: PeftModel) -> torch.Tensor:
        return summed_loss(model, batch(), task=Task.CAUSAL_LM, pad_token=0, device=torch.device("cpu"))

    expected = plain(theirs)
    by_module = plain(ours)
    assert by_module.item() == pytest.approx(expected.item(), rel=1e-6)
    reference = gradients(theirs, expected)
    torch.testing.assert_close(gradients(ours, by_module), reference, rtol=1e-3, atol=1e-4)
    fused = recognise(ours)
    assert (fused is None) == ("gpt2" in type(few).__module__)
    if fused is not None:
        kept = fused.token_losses(batch())[0].sum()
        assert kept.item() == pytest.approx(expected.item(), rel=1e-6)
        first = gradients(ours, kept)
        torch.testing.assert_close(first, reference, rtol=1e-3, atol=1e-4)
        assert torch.equal(gradients(ours, fused.token_losses(batch(), recomputed=2)[0].sum()), first)
        logits = fused.logits(fused.hidden([batch()[0].tokens], np.arange(12)))
        tokens = torch.from_numpy(batch()[0].tokens.astype(np.int64))[None]
        torch.testing.assert_close(logits, theirs(input_ids=tokens).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_values_are_near_those_of_the_base(directory: Path) -> None:
    few = loaded(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
    whole = model.state_dict()
    for name, module in few.named_modules():
        if isinstance(module, FewBitsLinear | FewBitsEmbedding):
            weight = whole[f"{name}.weight"]
            mine = module.weight.t() if isinstance(model.get_submodule(name), Conv1D) else module.weight
            in_five = isinstance(module, FewBitsEmbedding) or module is few.get_output_embeddings()
            assert (mine - weight).norm() < (0.06 if in_five else 0.1) * weight.norm(), name
    for name, parameter in few.named_parameters():
        torch.testing.assert_close(parameter.detach(), whole[name], rtol=0, atol=0)
    if not isinstance(few, GPT2LMHeadModel):
        assert taken(few) == pytest.approx(planned(directory, value_bytes=4), rel=0.02)
        whole_tables = taken(loaded(directory, whole_tables=True))
        assert whole_tables == pytest.approx(planned(directory, value_bytes=4, targets="q_proj,embed_tokens"), rel=0.02)


def test_eight_bits_are_near_the_base_and_as_many_bytes_as_planned(directory: Path) -> None:
    few = loaded(directory, in_eight=True)
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
    packed = [(n, m) for n, m in few.named_modules() if isinstance(m, FewBitsLinear | FewBitsEmbedding)]
    assert len(packed) == sum(isinstance(module, nn.Linear | nn.Embedding | Conv1D) for module in whole.modules()) - (
        isinstance(few, GPT2LMHeadModel)  # its positions are no words
    )
    for name, module in packed:
        weight = whole.get_submodule(name).weight
        mine = module.weight.t() if isinstance(whole.get_submodule(name), Conv1D) else module.weight
        assert isinstance(module.held, Rows)
        assert (mine - weight).norm() < 0.01 * weight.norm(), name
    if not isinstance(few, GPT2LMHeadModel):
        assert taken(few) == pytest.approx(planned(directory, value_bytes=4, in_eight=True), rel=0.01)


def test_rows_of_no_whole_blocks_stay_as_they_are_in_eight_bits(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"intermediate_size": 80})).save_pretrained(tmp_path)
    few = loaded(tmp_path, in_eight=True)
    down = few.get_submodule("model.layers.0.mlp.down_proj")
    assert type(down) is nn.Linear
    assert not down.weight.is_meta
    assert type(few.get_submodule("model.layers.0.mlp.up_proj")) is FewBitsLinear


@pytest.mark.slow
def test_a_machine_may_hold_its_base_in_eight_bits(tiny: LocatedBase) -> None:
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    base = ResidentBase(tiny.directory, tiny.reference.fingerprint, replace(IN_FLOAT32, eight_bits=True), seq_len=32)
    for method, form in (("lora", "q8_0"), ("qlora", None)):
        made = design(config, AdapterRequest(method, rank=4), task=Task.CAUSAL_LM, seed=0)
        layers = [m for m in base.carrying(made.spec, made.initial).modules() if isinstance(m, FewBitsLinear)]
        inside = [layer.held for layer in layers if layer.out_features != config.vocab_size]
        assert {each.form.name if isinstance(each, Rows) else None for each in inside} == {form}


def test_read_in_pieces_or_by_transformers_it_is_the_same(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_bits_base, "_PIECE", 1 << 10)
    in_pieces = loaded(directory)
    monkeypatch.setattr(few_bits_base, "_places", lambda *_: None)
    read_whole = loaded(directory)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(in_pieces(input_ids=tokens).logits, read_whole(input_ids=tokens).logits)


@pytest.mark.slow
def test_no_weight_is_in_memory_in_full(tmp_path: Path) -> None:
    shape = SHAPE | {"hidden_size": 160, "intermediate_size": 224}
    LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).save_pretrained(tmp_path)
    few = loaded(tmp_path, Compute(torch.device("cpu"), torch.bfloat16))
    with torch.no_grad():
        few(input_ids=torch.arange(40)[None])
    full = {(WORDS, 160), (224, 160), (160, 224), (160, 160), (80, 160)}
    gc.collect()
    found = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_meta and tuple(x.shape) in full]
    assert not found
    blocks = 2 * (2 * 160 * 160 + 2 * 80 * 160 + 3 * 160 * 224)
    assert taken(few) == pytest.approx(blocks * 0.516 + WORDS * 160 * 22 / 32 + 5 * 160 * 2, rel=0.01)
    assert taken(few) == pytest.approx(planned(tmp_path, value_bytes=2), rel=0.01)


@pytest.mark.slow
def test_a_client_s_base_is_held_so_unless_the_adapter_is_on_its_embedding(
    tiny: LocatedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PEFT asks for every weight many times while it puts an adapter on.
    monkeypatch.setattr(NormalFloat, "unpacked", lambda _: pytest.fail("computed for its shape"))
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    base = ResidentBase(tiny.directory, tiny.reference.fingerprint, IN_FLOAT32, seq_len=32)
    for targets, is_packed in (("all-linear", True), ("q_proj,embed_tokens", False)):
        request = AdapterRequest(method="qlora", rank=4, alpha=8, target_modules=targets)
        blueprint = design(config, request, task=Task.CAUSAL_LM, seed=0)
        model = base.carrying(blueprint.spec, blueprint.initial)
        kinds = {type(module) for module in model.modules()}
        assert FewBitsLinear in kinds
        assert (FewBitsEmbedding in kinds) == is_packed
        assert base.fingerprint.hex() == tiny.reference.fingerprint


def test_a_classifier_s_new_head_is_whole(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        architectures=["BertModel"],
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    read = read_base_config(tmp_path, Task.CLASSIFICATION, ("a", "b"))
    model = load_in_few_bits(
        tmp_path, read, task=Task.CLASSIFICATION, compute=IN_FLOAT32, attention="eager", whole=("classifier",)
    )
    assert type(model.get_submodule("classifier")) is nn.Linear
    assert type(model.get_submodule("bert.encoder.layer.0.output.dense")) is FewBitsLinear
    assert model(input_ids=torch.arange(9)[None]).logits.shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["Q4_0", "Q8_0"])
def test_a_gguf_file_beside_the_base_is_used_as_it_is(tmp_path: Path, form: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    kind = gguf.GGMLQuantizationType[form]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SHAPE["num_hidden_layers"])
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding) or name == "lm_head":
            continue
        blocks = quants.quantize(module.weight.detach().numpy(), kind)
        module.weight.data = torch.from_numpy(quants.dequantize(blocks, kind))
        if name.endswith(("q_proj", "k_proj")):
            heads = SHAPE["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            # As llama.cpp's converter turns them.
            blocks = blocks.reshape(heads, 2, -1, blocks.shape[1]).swapaxes(1, 2).reshape(blocks.shape)
        writer.add_tensor(f"{names.get_name(name)}.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.save_pretrained(tmp_path)
    few = loaded(tmp_path)
    for name, module in few.named_modules():
        if isinstance(module, FewBitsLinear | FewBitsEmbedding):
            assert torch.equal(module.weight, model.get_submodule(name).weight), name
    assert taken(few) == pytest.approx(planned(tmp_path, value_bytes=4), rel=0.02)
    ours = recognise(adapted(few))
    theirs = recognise(adapted(model))
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.token_losses(batch())[0], theirs.token_losses(batch())[0])


def test_blocks_of_other_values_than_the_base_s_are_not_used(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name in ("gate", "up"):
        layer = cast("nn.Linear", model.get_submodule(f"model.layers.0.mlp.{name}_proj"))
        blocks = quants.quantize(layer.weight.detach().numpy(), kind)
        layer.weight.data = torch.from_numpy(quants.dequantize(blocks, kind))
        writer.add_tensor(f"blk.0.ffn_{name}.weight", blocks, raw_dtype=kind)
    with torch.no_grad():
        layer.weight[-1, -1] += 0.25
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.save_pretrained(tmp_path)
    few = loaded(tmp_path)
    held = [cast("FewBitsLinear", few.get_submodule(f"model.layers.0.mlp.{name}_proj")).held for name in ("gate", "up")]
    assert [type(each) for each in held] == [Rows, NormalFloat]
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:200])
    few = loaded(tmp_path)
    assert type(cast("FewBitsLinear", few.get_submodule("model.layers.0.mlp.gate_proj")).held) is NormalFloat
