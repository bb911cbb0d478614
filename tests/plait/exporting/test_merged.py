import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from plait.api.export import write_export as export
from plait.errors import ConfigError
from plait.exporting.request import ExportRequest
from plait.exporting.source import open_source
from plait.training.bases import LocatedBase

Logits = Callable[..., torch.Tensor]


def written(tiny: LocatedBase, folder: Path, dtype: torch.dtype, **how: str) -> Path:
    """The tiny base in another type."""
    model = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=dtype, trust_remote_code=False)
    model.save_pretrained(folder, **how)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.directory / name, folder)
    return folder


@pytest.fixture
def float32_base(tiny: LocatedBase, tmp_path: Path) -> Path:
    """The tiny base in float32 and in several files, as large models come."""
    folder = written(tiny, tmp_path / "float32", torch.float32, max_shard_size="1MB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["v_proj"]},
    ],
)
def test_merged_weights_give_the_logits_of_peft(float32_base, by_peft, logits_of, tmp_path, settings):
    adapter = by_peft(base=float32_base, **settings)
    export("merged", ExportRequest(open_source(adapter), tmp_path / "out"))
    theirs = logits_of(float32_base, adapter)
    torch.testing.assert_close(logits_of(tmp_path / "out"), theirs, rtol=0, atol=2e-4)
    assert (theirs - logits_of(float32_base)).abs().max() > 0.05


@pytest.mark.slow
def test_in_bfloat16_the_weights_are_those_of_peft_rounded_once(by_plait, tiny, tmp_path):
    adapter = by_plait()
    export("merged", ExportRequest(open_source(adapter), tmp_path / "out"))
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False), adapter
    ).merge_and_unload()
    theirs = model.to(torch.bfloat16).state_dict()
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert set(ours) == set(load_file(tiny.directory / "model.safetensors"))
    differing = total = 0
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        # Sums in another order may round to the neighbour.
        torch.testing.assert_close(tensor.float(), theirs[name].float(), rtol=2**-7, atol=1e-6)
        differing, total = differing + int((tensor != theirs[name]).sum()), total + tensor.numel()
    assert differing < total / 1000


@pytest.mark.slow
def test_what_is_more_than_plain_lora_is_merged_by_peft(float32_base, by_peft, logits_of, tmp_path):
    adapter = by_peft(base=float32_base, use_dora=True)
    export("merged", ExportRequest(open_source(adapter), tmp_path / "out"))
    torch.testing.assert_close(logits_of(tmp_path / "out"), logits_of(float32_base, adapter), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_changed_output_layer_is_merged(float32_base, by_peft, logits_of, tmp_path):
    config = json.loads((float32_base / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(float32_base, trust_remote_code=False)
    untied = model.__class__(model.config.__class__(**{**config, "tie_word_embeddings": False})).float()
    for file in float32_base.glob("*.safetensors*"):
        file.unlink()
    untied.save_pretrained(float32_base)
    adapter = by_peft(base=float32_base, target_modules=["lm_head"])
    export("merged", ExportRequest(open_source(adapter), tmp_path / "out"))
    torch.testing.assert_close(logits_of(tmp_path / "out"), logits_of(float32_base, adapter), rtol=0, atol=2e-4)


@pytest.mark.slow
def test_weights_that_float16_cannot_hold_are_refused_and_nothing_stays(tiny, by_peft, tmp_path):
    base = written(tiny, tmp_path / "half", torch.float16)
    adapter = by_peft(base=base, target_modules=["q_proj"], lora_alpha=4e7)
    with pytest.raises(ConfigError, match=r"'model\.layers\.0\.self_attn\.q_proj' is too large for F16"):
        export("merged", ExportRequest(open_source(adapter), tmp_path / "out"))
    assert not list(tmp_path.glob("*out*"))
