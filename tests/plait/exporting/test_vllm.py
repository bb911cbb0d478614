"""What vLLM's loader does with a directory, reimplemented here; exports pass it.

From vllm/lora/peft_helper.py (PEFTHelper), vllm/lora/lora_model.py (LoRAModel.from_local_checkpoint),
vllm/lora/utils.py (parse_fine_tuned_lora_name, get_supported_lora_modules) and vllm/config/lora.py.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from plait.api.export import write_export as export
from plait.errors import ConfigError, PeerError
from plait.exporting.peft import RANKS
from plait.exporting.request import ExportRequest
from plait.exporting.source import open_source
from plait.training.bases import LocatedBase


class VllmRefusal(Exception):
    pass


def vllm_loads(folder: Path, base: nn.Module, *, max_lora_rank: int) -> dict[str, torch.Tensor]:
    """Load as vLLM does; returns the change of every layer's weight as it would compute it.

    Raises:
        VllmRefusal: vLLM would refuse it.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    for required in ("r", "lora_alpha", "target_modules"):
        if required not in config:
            raise VllmRefusal(f"missing {required}")
    if config.get("modules_to_save"):
        raise VllmRefusal("only supports modules_to_save being None")
    if config.get("use_dora"):
        raise VllmRefusal("does not yet support DoRA")
    if config["r"] > max_lora_rank:
        raise VllmRefusal("rank is greater than max_lora_rank")
    if config.get("bias", "none") != "none":
        raise VllmRefusal("adapter bias is not supported")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    # Every linear layer takes LoRA there, told by the last part of its name; embeddings only where a model says so.
    expected = {name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    expected.discard("lm_head")
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)\.weight", name)
        if match is None:
            raise VllmRefusal(f"{name} is unsupported LoRA weight")
        if match[1].rsplit(".", 1)[-1] not in expected:
            raise VllmRefusal(f"expected target modules in {expected} but received {match[1]}")
        factors.setdefault(match[1], {})[match[2]] = tensor
    return {module: scaling * pair["B"] @ pair["A"] for module, pair in factors.items()}


@pytest.fixture(scope="session")
def base(tiny: LocatedBase) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)


def products_of_peft(base_directory: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to every layer's weight."""
    from peft import PeftModel
    from peft.tuners.lora import Linear

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_directory, trust_remote_code=False), adapter
    )
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if isinstance(module, Linear)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({}, 8),
        ({"r": 9, "lora_alpha": 32}, 16),
        ({"use_rslora": True}, 8),
        ({"target_modules": r".*\.(1|2)\..*(q_proj|up_proj)"}, 8),
    ],
)
def test_vllm_loads_the_export_and_adds_what_peft_adds(by_peft, tiny, base, tmp_path, settings, rank):
    adapter = by_peft(**settings)
    exported = export("vllm", ExportRequest(open_source(adapter), tmp_path / "out"))
    assert exported.rank == rank
    loaded = vllm_loads(tmp_path / "out", base, max_lora_rank=rank)
    theirs = products_of_peft(tiny.directory, adapter)
    assert loaded.keys() == theirs.keys()
    for module, product in loaded.items():
        torch.testing.assert_close(
            product, theirs[module], rtol=0, atol=1e-6 * float(theirs[module].abs().max()) + 1e-7
        )
    for command in exported.commands:
        assert f"--max-lora-rank {rank} --lora-" in command.text
        assert command.text.endswith(f" by-peft={tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "is DoRA.*export --to merged, and serve that"),
        ({"modules_to_save": ["norm"]}, "holds whole modules.*export --to merged"),
    ],
)
def test_what_vllm_refuses_is_refused_here_first(by_peft, base, tmp_path, settings, message):
    adapter = by_peft(**settings)
    with pytest.raises(VllmRefusal):
        vllm_loads(adapter, base, max_lora_rank=8)
    with pytest.raises(ConfigError, match=message):
        export("vllm", ExportRequest(open_source(adapter), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_a_changed_embedding_is_refused(by_peft, tmp_path):
    source = open_source(by_peft(target_modules=["embed_tokens", "q_proj"]))
    with pytest.raises(ConfigError, match="changes the embedding of base"):
        export("vllm", ExportRequest(source, tmp_path / "out"))


@pytest.mark.slow
def test_a_rank_above_all_is_refused_and_can_be_cut(by_plait, tmp_path):
    source = open_source(by_plait(rank=RANKS[-1] + 1))
    with pytest.raises(ConfigError, match="rank of the adapter is 513, expected at most 512 for vLLM: --rank 512"):
        export("vllm", ExportRequest(source, tmp_path / "out"))
    # No layer of the tiny base has a rank above 128, so nothing is lost.
    assert export("vllm", ExportRequest(source, tmp_path / "out", rank=128)).lost < 1e-6


def test_an_adapter_with_a_layer_that_the_base_lacks_is_refused(by_plait, tmp_path):
    from dataclasses import replace

    from plait.adapters import AdapterState, Layout

    source = open_source(by_plait())
    layout = Layout.of({slot.name.replace("layers.0", "layers.9"): slot.shape for slot in source.spec.layout.slots})
    other = replace(source, spec=replace(source.spec, layout=layout), state=AdapterState.zeros(layout))
    with pytest.raises(PeerError, match=r"has no linear layer 'model\.layers\.9"):
        export("vllm", ExportRequest(other, tmp_path / "out"))
