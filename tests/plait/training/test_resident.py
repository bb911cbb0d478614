from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterState, save_peft_directory
from plait.errors import BaseMismatchError
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint
from plait.training.resident import ResidentBase, read_adapter


def random_state(blueprint: Blueprint, seed: int) -> AdapterState:
    values = np.random.default_rng(seed).normal(0, 0.05, blueprint.spec.layout.size)
    return AdapterState(blueprint.spec.layout, values.astype(np.float32))


def test_what_is_loaded_is_read_back_bit_for_bit(resident: ResidentBase, blueprint: Blueprint) -> None:
    for seed in (1, 2):
        state = random_state(blueprint, seed)
        model = resident.carrying(blueprint.spec, state)
        assert read_adapter(model, state).digest() == state.digest()


def test_an_adapter_lands_in_the_model_also_after_its_weights_have_moved(
    resident: ResidentBase, blueprint: Blueprint
) -> None:
    model = resident.carrying(blueprint.spec, random_state(blueprint, 1))
    model.to(torch.float64)  # new memory for every parameter, as a trainer's move to another device
    state = random_state(blueprint, 2)
    assert read_adapter(resident.carrying(blueprint.spec, state), state).digest() == state.digest()
    name, parameter = next((n, p) for n, p in model.named_parameters() if "lora_A" in n)
    assert float(parameter.detach().abs().sum()) == pytest.approx(
        np.abs(state[name.replace(".default", "")]).sum(), rel=1e-5
    )
    model.to(resident.compute.dtype)


def test_a_written_adapter_gives_the_same_logits_in_plain_peft(
    resident: ResidentBase, blueprint: Blueprint, tiny: LocatedBase, tmp_path
) -> None:
    state = random_state(blueprint, 3)
    save_peft_directory(tmp_path / "adapter", spec=blueprint.spec, state=state, base=tiny.reference, card="x")
    plain = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
    plain = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    tokens = torch.arange(3, 35)[None]
    with torch.no_grad():
        theirs = plain(input_ids=tokens).logits
        ours = resident.carrying(blueprint.spec, state).eval()(input_ids=tokens).logits
        bare = resident.carrying(blueprint.spec, blueprint.initial).eval()(input_ids=tokens).logits
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours - bare).abs().max() > 0.1


def test_an_adapter_of_another_base_is_refused(resident: ResidentBase, blueprint: Blueprint) -> None:
    from dataclasses import replace

    from plait.adapters import Layout

    shapes = {slot.name.replace("layers.0", "layers.9"): slot.shape for slot in blueprint.spec.layout.slots}
    other = replace(blueprint.spec, layout=Layout.of(shapes))
    with pytest.raises(BaseMismatchError, match="tensors are not"):
        resident.carrying(other, AdapterState.zeros(other.layout))
