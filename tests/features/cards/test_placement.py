"""A base over several devices: which block lies where, and that its numbers have the bits of one device.

That no operation mixes two devices is proven on pretended ones (`tests/pretend`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.data import Record, RecordKind
from plait.errors import MachineError
from plait.features.cards.training.placement import Placement, blocks_over, bytes_by_device, place, plan_over
from plait.rounds.local_model import TrainJob
from plait.training import device
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint, design, read_base_config
from plait.training.device import Compute, budgets_of
from plait.training.local_model import PeftLocalModel
from plait.training.memory_plan import SLACK, SLICES, FewBits, ModelSize, Training, least_bytes, size_of
from plait.training.resident import ResidentBase
from tests.plait.training.test_step_memory import SETTINGS

CPU, META = torch.device("cpu"), torch.device("meta")
EIGHT = ModelSize(
    layers=32, width=4096, inner=14336, queries=4096, keys=1024, heads=32, words=128256, tied=False,
    adapted_embedding=False, biases=0, value_bytes=2, four_bits=False, adapter=41_943_040, ranks=112,
)  # fmt: skip
GB = 10**9


def test_blocks_follow_memory_and_each_device_holds_what_it_gets() -> None:
    for budgets in ((12 * GB, 12 * GB), (8 * GB, 16 * GB), (10 * GB, 6 * GB, 9 * GB)):
        blocks = blocks_over(EIGHT, seq_len=1024, budgets=budgets)
        assert blocks is not None
        assert sum(blocks) == EIGHT.layers
        plan = plan_over(EIGHT, blocks, batch=4, seq_len=1024, budgets=budgets)
        assert plan.fits
        each = bytes_by_device(
            EIGHT, blocks, sequences=-(-4 // plan.cuts), seq_len=1024, recomputes=plan.recomputed > 0,
            elements=plan.slice_elements,
        )  # fmt: skip
        assert all(SLACK * needed <= budget for needed, budget in zip(each, budgets, strict=True))
    small, large = blocks_over(EIGHT, seq_len=1024, budgets=(8 * GB, 16 * GB)) or (0, 0)
    assert large > 2 * small
    # Weights alone are 16.1 GB.
    assert blocks_over(EIGHT, seq_len=1024, budgets=(8 * GB, 8 * GB)) is None
    roomy = plan_over(EIGHT, (16, 16), batch=1, seq_len=128, budgets=(40 * GB, 40 * GB))
    assert (roomy.recomputed, roomy.cuts) == (0, 1)


def test_a_base_is_placed_over_devices_only_where_none_holds_it_and_all_do() -> None:
    how = {"seq_len": 1024, "host_has_room": False}
    assert place(EIGHT, [CPU, META], budgets=(40 * GB, 40 * GB), **how) is None
    assert place(EIGHT, [CPU, META], budgets=(4 * GB, 4 * GB), **how) is None
    assert place(EIGHT, [CPU], budgets=(12 * GB,), **how) is None
    found = place(EIGHT, [CPU, META], budgets=(12 * GB, 12 * GB), **how)
    assert found is not None
    assert found.by_module["model.embed_tokens"] == CPU
    assert found.by_module["model.layers.0"] == CPU
    assert found.by_module["model.layers.31"] == found.by_module["lm_head"] == found.by_module["model.norm"] == META
    # Each has the masters of its own factors alone.
    assert found.in_words == "one base over all, blocks of each: cpu 16, meta 16; head with the last"
    # One matrix is there once, with the head.
    assert replace(found, tied=True).by_module["model.embed_tokens"] == META


@pytest.fixture(scope="module")
def size(tiny: LocatedBase, blueprint: Blueprint) -> ModelSize:
    found = size_of(read_base_config(tiny.directory, Task.CAUSAL_LM), blueprint.spec, value_bytes=4, on_cpu=True)
    assert found is not None
    return found


def two(tiny: LocatedBase, limit: int = 0, count: int = 2) -> ResidentBase:
    cpu = Compute(CPU, torch.float32)
    base = ResidentBase(tiny.directory, tiny.reference.fingerprint, cpu, seq_len=32, others=[cpu] * (count - 1))
    base.memory_limit_bytes = count * limit  # the entries of one device share it
    return base


def half(size: ModelSize) -> int:
    """What is enough for a half of the blocks, and not for all."""
    blocks = (size.layers // 2, size.layers - size.layers // 2)
    needed = bytes_by_device(size, blocks, sequences=1, seq_len=32, recomputes=True, elements=SLICES[-1])
    return int(SLACK * max(needed)) + 1


def test_entries_of_one_device_share_its_memory_and_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:0")]
    monkeypatch.setattr(device, "memory_for_steps", lambda _, limit: min(24 * GB, limit or 24 * GB))
    assert budgets_of(cards, 0) == (12 * GB, 24 * GB, 12 * GB)
    assert budgets_of(cards, 10 * GB) == (5 * GB, 10 * GB, 5 * GB)


def test_a_base_of_few_bits_has_its_table_once() -> None:
    few = replace(EIGHT, four_bits=True, cpu=FewBits(120_000_000, 361_000_000, 298_000_000))
    none = replace(few, cpu=FewBits(120_000_000, 0, 0))
    how = {"sequences": 1, "seq_len": 64, "recomputes": True, "elements": SLICES[-1]}
    for size, tables in ((few, [361_000_000, 0, 298_000_000]), (replace(few, tied=True), [0, 0, 361_000_000])):
        without = bytes_by_device(replace(none, tied=size.tied), (10, 12, 10), **how)
        found = bytes_by_device(size, (10, 12, 10), **how)
        assert [one - other for one, other in zip(found, without, strict=True)] == tables


@pytest.mark.slow
def test_what_a_run_holds_of_an_adapter_decides_whether_each_device_holds_the_base(
    tiny: LocatedBase, blueprint: Blueprint
) -> None:
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    plain, follows = (replace(SETTINGS, seq_len=32, lr_schedule=how) for how in ("constant", "slope"))
    least = [
        least_bytes(found, seq_len=32)
        for settings in (plain, follows)
        if (found := size_of(
            config, blueprint.spec, value_bytes=4, on_cpu=True, training=Training.of(settings, devices=2)
        ))
    ]  # fmt: skip
    assert least[0] < least[1]
    base = two(tiny, int(SLACK * sum(least) / 2))
    assert base.placement(blueprint.spec, plain) is None
    placement = base.placement(blueprint.spec, follows)
    assert placement is not None
    assert placement == base.placement(blueprint.spec), "where no run is known, it is one that follows slopes"
    assert len(base.models(blueprint.spec, blueprint.initial, follows)) == 1
    assert len(base.models(blueprint.spec, blueprint.initial, plain)) == 2


def test_a_base_is_placed_for_a_whole_batch_or_else_for_one_sequence(
    tiny: LocatedBase, blueprint: Blueprint, size: ModelSize
) -> None:
    private = replace(SETTINGS, seq_len=32, record_delta=1e-5, batch_size=64)
    base = two(tiny, half(replace(size, training=replace(Training.of(private), whole=1))))
    whole = replace(size, training=Training.of(private, devices=2))
    assert blocks_over(whole, seq_len=32, budgets=base.budgets) is None
    assert base.placement(blueprint.spec, private) is not None
    base.plan_steps(blueprint.spec, private)
    assert (base.step_memory.recomputed, base.step_memory.cuts) == (size.layers, 1)


@pytest.mark.slow
def test_training_and_evaluation_have_the_bits_of_one_device(
    tiny: LocatedBase, blueprint: Blueprint, size: ModelSize
) -> None:
    records = [Record(text=f"the number {number} is followed by {number + 1}. " * 4) for number in range(40)]
    settings = replace(SETTINGS, seq_len=32, batch_size=1)
    placed = two(tiny, half(size))
    placement = placed.placement(blueprint.spec)
    assert placement is not None
    assert min(placement.blocks) > 0
    found = []
    for base in (two(tiny, count=1), placed):
        model = PeftLocalModel(base, "ada", records, kind=RecordKind.TEXT, histogram={})
        before = model.evaluate(blueprint.spec, blueprint.initial, settings)
        after = model.train(TrainJob(model, blueprint.spec, settings, blueprint.initial, blueprint.initial)).state
        found.append((before, after.flat.tobytes(), model.evaluate(blueprint.spec, after, settings)))
    assert found[0] == found[1]
    assert placed.step_memory.recomputed == size.layers, "as the plan says"
    assert len(placed.models(blueprint.spec, blueprint.initial)) == 1


@pytest.mark.slow
def test_where_each_device_holds_it_or_memory_is_not_predicted_each_gets_the_base(
    tiny: LocatedBase, blueprint: Blueprint, size: ModelSize
) -> None:
    assert two(tiny, 2 * GB).placement(blueprint.spec) is None
    assert two(tiny).placement(blueprint.spec) is None
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    for request in (
        AdapterRequest(method="dora", rank=4),
        AdapterRequest(rank=4, target_modules="q_proj,embed_tokens"),
    ):
        spec = design(config, request, task=Task.CAUSAL_LM, seed=1, weights=tiny.directory).spec
        assert two(tiny, half(size)).placement(spec) is None
    short = two(tiny, half(size) // 3)
    assert short.placement(blueprint.spec) is None
    with pytest.raises(MachineError, match="what would fit"):
        short.plan_steps(blueprint.spec, replace(SETTINGS, seq_len=32))


@pytest.mark.slow
def test_transformers_own_modules_compute_over_devices_too(
    tiny: LocatedBase, blueprint: Blueprint, size: ModelSize
) -> None:
    tokens = torch.arange(5, 25)[None]
    alone, placed = (
        base.carrying(blueprint.spec, blueprint.initial) for base in (two(tiny, count=1), two(tiny, half(size)))
    )
    with torch.no_grad():
        assert torch.equal(alone(input_ids=tokens).logits, placed(input_ids=tokens).logits)
    layers = placed.get_base_model().model.layers
    assert all(layer._forward_pre_hooks for layer in layers), "what moves activations is there"
    assert Placement((CPU,), (4,), tied=True).by_block == (CPU,) * 4
