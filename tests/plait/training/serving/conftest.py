"""The tiny base with random adapters on it, of different ranks and on different layers, one made of bottlenecks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterSpec, AdapterState
from plait.adapters.peft_reading import load_peft_directory
from plait.training.bases import LocatedBase
from plait.training.bottleneck import BottleneckConfig
from plait.training.device import Compute
from plait.training.serving import Engine, Limits

ADAPTERS = {
    "one": {"r": 2, "lora_alpha": 8, "target_modules": "all-linear"},
    "two": {"r": 5, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True},
    "behind": {"r": 6, "act_fn": "relu", "target_modules": ["o_proj", "down_proj"]},
    "three": {"r": 3, "lora_alpha": 9, "target_modules": "all-linear", "rank_pattern": {"down_proj": 7}},
}


@dataclass(frozen=True)
class Adapter:
    directory: Path
    spec: AdapterSpec
    state: AdapterState


@pytest.fixture(scope="session")
def adapters(tiny: LocatedBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    made: dict[str, Adapter] = {}
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False),
            (BottleneckConfig if "act_fn" in settings else LoraConfig)(task_type="CAUSAL_LM", **settings),
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.15)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder, save_embedding_layers=False)
        loaded = load_peft_directory(folder)
        spec = loaded.spec()
        made[name] = Adapter(folder, spec, AdapterState.from_tensors(spec.layout, loaded.tensors))
    return made


@pytest.fixture
def make_engine(tiny: LocatedBase) -> Callable[..., Engine]:
    def make(**limits: int) -> Engine:
        return Engine(tiny.directory, Compute(torch.device("cpu"), torch.float32), Limits(**limits))

    return make


@pytest.fixture(scope="session")
def alone(tiny: LocatedBase, adapters: dict[str, Adapter]) -> Callable[..., list[int]]:
    """What plain PEFT with one adapter and nothing else writes greedily, token by token without a cache."""

    def write(name: str | None, prompt: tuple[int, ...], count: int) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
        if name is not None:
            model = PeftModel.from_pretrained(model, adapters[name].directory)
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(count):
                tokens = torch.cat([tokens, model.eval()(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
        return tokens[0, len(prompt) :].tolist()

    return write
