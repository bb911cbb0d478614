from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterState, Layout
from plait.errors import BaseMismatchError, MachineError
from plait.training.bases import LocatedBase
from plait.training.blueprint import AdapterTemplate
from plait.training.device import Compute
from plait.training.resident import ResidentBase, read_adapter
from tests.plait.training.conftest import designed, moved

CPU = Compute(torch.device("cpu"), torch.float32)


def test_what_is_loaded_is_read_back_bit_for_bit(resident, blueprint):
    for seed in (1, 2):
        state = moved(blueprint, seed)
        model = resident.with_adapter(blueprint.spec, state)
        assert read_adapter(model, state).digest() == state.digest()


def test_an_adapter_of_another_base_is_refused(resident, blueprint):
    shapes = {slot.name.replace("layers.0", "layers.9"): slot.shape for slot in blueprint.spec.layout.slots}
    other = replace(blueprint.spec, layout=Layout.of(shapes))
    with pytest.raises(BaseMismatchError, match="tensors are not"):
        resident.with_adapter(other, AdapterState.zeros(other.layout))


class Loads:
    """Counts how often a base is read from disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        honest = AutoModelForCausalLM.from_pretrained

        def counted(*args: object, **how: object) -> object:
            self.count += 1
            return honest(*args, **how)

        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)


def logits(base: ResidentBase, made: AdapterTemplate) -> torch.Tensor:
    with torch.no_grad():
        model = base.with_adapter(made.spec, moved(made)).eval()
        return model(input_ids=torch.arange(3, 19)[None], use_cache=False).logits


def fresh(tiny: LocatedBase, seq_len: int = 32, *, compute: Compute = CPU, **how: Any) -> ResidentBase:
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, compute, seq_len=seq_len, **how)


# PEFT still hands its prefix over under a name that transformers is about to drop.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_the_base_is_read_once_whatever_adapters_follow_one_another(tiny, monkeypatch):
    methods = ("lora", "dora", "lora_xs", "vera", "ia3", "pfeiffer", "prefix", "full")
    made = {name: designed(tiny, name) for name in methods}
    expected = {name: logits(fresh(tiny), made[name]) for name in methods}
    loads, base = Loads(monkeypatch), fresh(tiny)
    for name in (*methods, methods[0]):
        assert torch.equal(logits(base, made[name]), expected[name]), f"{name} after others is not {name} alone"
    assert loads.count == 1


def test_a_base_goes_straight_to_its_device(tiny, blueprint, monkeypatch):
    asked: list[object] = []

    def load(*_: object, **how: object) -> object:
        asked.append(how.get("device_map"))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    there = torch.device("cuda", 0)
    base = fresh(tiny, compute=Compute(there, torch.bfloat16))
    with pytest.raises(MachineError, match="does not fit into the memory of cuda:0"):
        base.with_adapter(blueprint.spec, blueprint.initial)
    assert asked == [{"": there}], "main memory never holds all of it"
    monkeypatch.setattr("plait.training.resident.memory_for_steps", lambda device, _: 10 + device.index)
    base = fresh(tiny, compute=Compute(there, torch.bfloat16), others=(torch.device("cuda", 1),))
    with pytest.raises(MachineError, match="does not fit into the memory of cuda:0, cuda:1"):
        base.with_adapter(blueprint.spec, blueprint.initial)
    assert asked[1:] == ["auto"]


@pytest.mark.slow
def test_a_base_that_an_adapter_changed_is_read_again(tiny, monkeypatch):
    plain, whole = designed(tiny, "lora"), designed(tiny, "vera")
    expected = logits(fresh(tiny), plain)
    loads, base = Loads(monkeypatch), fresh(tiny)
    logits(base, plain)
    model = base.with_adapter(whole.spec, whole.initial)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name.endswith("norm.weight")).mul_(2)
    assert torch.equal(logits(base, plain), expected)
    assert loads.count == 2


@pytest.mark.slow
def test_the_next_runs_base_is_the_one_in_memory_if_it_is_the_same(tiny, blueprint, monkeypatch):
    other = designed(tiny, "vera")
    expected = logits(fresh(tiny, 1024), other)
    first, longer = fresh(tiny), fresh(tiny, 1024)
    before = logits(first, blueprint)
    loads = Loads(monkeypatch)
    longer.adopt(first)
    assert torch.equal(logits(longer, other), expected), "computed as if it had been read for this run"
    assert loads.count == 0
    in_halves = fresh(tiny, compute=Compute(torch.device("cpu"), torch.bfloat16))
    in_halves.adopt(longer)
    logits(in_halves, other)
    assert loads.count == 1, "another type is another base in memory"
    assert torch.equal(logits(first, blueprint), before), "a base that was given away is read again"
    assert loads.count == 2
