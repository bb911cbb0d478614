"""Adapters on the tiny base: one that PEFT wrote, one that plait wrote."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterState, AdapterTask, BaseReference, save_peft_directory
from plait.adapters.method import AdapterRequest
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import design, read_base_config

TOKENS = torch.tensor([[5, 17, 300, 41, 999, 1203, 8, 64]])

# Settings of LoRA by PEFT's own names, and the directory they are written to.
PeftAdapterMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny() -> LocatedBase:
    return locate_base("tiny")


@pytest.fixture(scope="session")
def logits_of() -> Callable[..., torch.Tensor]:
    def logits(base: Path, adapter: Path | None = None) -> torch.Tensor:
        """What plain transformers and plain PEFT say, in float32."""
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        with torch.no_grad():
            return model.eval()(input_ids=TOKENS).logits

    return logits


@pytest.fixture
def by_peft(tiny: LocatedBase, tmp_path: Path) -> PeftAdapterMaker:
    """Write an adapter with PEFT alone, every tensor of it random."""

    def make(name: str = "by-peft", *, seed: int = 0, base: Path | None = None, **settings: object) -> Path:
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
        model = AutoModelForCausalLM.from_pretrained(
            base or tiny.directory, dtype=torch.float32, trust_remote_code=False
        )
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, **settings))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.1)
        wrapped.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name

    return make


@pytest.fixture
def by_plait(tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter as a run does."""
    return lambda name="by-plait", **how: write_adapter(tmp_path / name, **how)


def write_adapter(folder: Path, *, rank: int = 4, base: BaseReference | None = None) -> Path:
    """An adapter of the tiny base as a run writes it, every value of it random."""
    tiny = locate_base("tiny")
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    spec = design(config, AdapterRequest(rank=rank, alpha=2.0 * rank), task=AdapterTask.CAUSAL_LM, seed=0).spec
    values = np.random.default_rng(0).normal(0, 0.1, spec.layout.size).astype(np.float32)
    state, card = AdapterState(spec.layout, values), "the run's own card"
    save_peft_directory(folder, spec=spec, state=state, base=base or tiny.reference, card=card)
    return folder
