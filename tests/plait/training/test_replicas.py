"""A client over several devices: the sums of one device within rounding, whatever is dealt out to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.data import Record, RecordKind
from plait.errors import MachineError
from plait.plugins import Kind, reference
from plait.rounds.local_model import TrainJob
from plait.training import replicas as replicas_module
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint, design, read_base_config
from plait.training.device import Compute
from plait.training.examples import Example
from plait.training.fused import FusedLanguageModel
from plait.training.learner import LocalTraining, TrainingInputs
from plait.training.local_model import PeftLocalModel
from plait.training.memory_plan import Training, peak_bytes, size_of
from plait.training.replicas import Replica, at_once, deal
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.step_memory import ALL_BLOCKS, StepMemory
from plait.training.trainer import measure_losses, train_steps
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=3, batch_size=3, gradient_accumulation_steps=1, seq_len=24, learning_rate=5e-3, weight_decay=0.01,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=3,
)  # fmt: skip
LOSS = 1e-5
"""Largest relative difference of a step's loss to that of one device, in float32."""
ADAPTER = 2e-3
"""Largest difference of an adapter, as a fraction of its change."""


def rows() -> list[Example]:
    """Of all lengths; of each, a first part does not count."""
    generator, made = np.random.default_rng(0), []
    for length, silent in ((24, 20), (5, 0), (17, 3), (24, 0), (12, 9), (20, 2), (7, 1)):
        tokens = generator.integers(0, 200, length).astype(np.int32)
        labels = tokens.copy()
        labels[:silent] = -100
        made.append(Example(tokens, labels))
    return made


@pytest.fixture(scope="module")
def base(tiny: LocatedBase) -> ResidentBase:
    cpu = Compute(torch.device("cpu"), torch.float32)
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, cpu, seq_len=32, others=[cpu])


def trained(
    base: ResidentBase, made: Blueprint, count: int, examples: list[Example], settings: Settings, **options: object
) -> tuple[LocalTraining, list[float]]:
    """An adapter trained on this many replicas, and the loss of every step."""
    models = base.models(made.spec, made.initial)[:count]
    first, *others = (Replica(model, adapter_parameters(model, made.spec.layout)) for model in models)
    said: list[float] = []
    done = train_steps(
        first.model,
        first.parameters,
        TrainingInputs(examples, settings, made.initial.flat),
        pad_token=0,
        others=others,
        on_step=lambda _step, loss: said.append(loss),
        **{"task": made.spec.task, **options},
    )
    for other in others:  # all end with the same adapter
        for mine, theirs in zip(first.parameters, other.parameters, strict=True):
            assert torch.equal(mine, theirs)
    return done, said


def check_equal(
    found: tuple[LocalTraining, list[float]], one: tuple[LocalTraining, list[float]], made: Blueprint
) -> None:
    assert found[1] == pytest.approx(one[1], rel=LOSS)
    change = np.linalg.norm(one[0].flat - made.initial.flat)
    assert change > 0
    assert np.linalg.norm(found[0].flat - one[0].flat) <= ADAPTER * change


def doubled(logits: torch.Tensor, labels: torch.Tensor, adapter: object) -> torch.Tensor:
    return 2 * torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "examples"),
    [
        (SETTINGS, rows()),
        (replace(SETTINGS, batch_size=1, gradient_accumulation_steps=5, local_steps=2), rows()),
        (replace(SETTINGS, batch_size=1), rows()),
        (replace(SETTINGS, trained="B", proximal=0.1), rows()),
        (replace(SETTINGS, loss=reference(Kind.LOSS, doubled), gradient_accumulation_steps=2), rows()),
    ],
    ids=["uneven", "accumulated", "one sequence", "one side", "own loss"],
)
def test_several_devices_take_the_steps_of_one(
    base: ResidentBase, blueprint: Blueprint, settings: Settings, examples: list[Example]
) -> None:
    one = trained(base, blueprint, 1, examples, settings)
    check_equal(trained(base, blueprint, 2, examples, settings), one, blueprint)


@pytest.mark.slow
def test_a_classifier_and_a_model_that_peft_computes_do_too(base: ResidentBase, tiny: LocatedBase) -> None:
    labels = ("no", "yes")
    classes = [replace(row, labels=np.array([number % 2], np.int32)) for number, row in enumerate(rows())]
    for request, task, examples in (
        (AdapterRequest(rank=4), Task.CLASSIFICATION, classes),
        (AdapterRequest(method="dora", rank=4), Task.CAUSAL_LM, rows()),
    ):
        own = labels if task is Task.CLASSIFICATION else ()
        config = read_base_config(tiny.directory, task, own)
        made = design(config, request, task=task, labels=own, seed=1, weights=tiny.directory)
        one = trained(base, made, 1, examples, SETTINGS)
        check_equal(trained(base, made, 2, examples, SETTINGS), one, made)


@pytest.mark.slow
def test_losses_of_an_evaluation_have_the_bits_of_one_device(base: ResidentBase, blueprint: Blueprint) -> None:
    model, *others = base.models(blueprint.spec, blueprint.initial)
    how = {"task": Task.CAUSAL_LM, "pad_token": 0, "batch_size": 2}
    assert measure_losses(model, rows(), **how, others=others) == measure_losses(model, rows(), **how)


@pytest.mark.slow
def test_private_steps_are_dealt_out_with_the_same_noise(base: ResidentBase, blueprint: Blueprint) -> None:
    from plait.features.privacy.record import Charge, RecordPrivacy
    from plait.features.privacy.training.private_steps import train_privately

    privacy = RecordPrivacy(records=7, batch=6, noise=1e-3, delta=1e-5, epsilon=float("inf"), clip_norm=0.5)

    def private(count: int) -> np.ndarray:
        models = base.models(blueprint.spec, blueprint.initial)[:count]
        first, *others = (Replica(model, adapter_parameters(model, blueprint.spec.layout)) for model in models)
        return train_privately(
            first.model, first.parameters, TrainingInputs(rows(), SETTINGS, blueprint.initial.flat),
            Charge(privacy, b"k" * 32, 0.0), task=Task.CAUSAL_LM, pad_token=0, others=others,
        ).flat  # fmt: skip

    one, two = private(1), private(2)
    assert np.linalg.norm(two - one) <= ADAPTER * np.linalg.norm(one - blueprint.initial.flat)


@pytest.mark.slow
def test_memory_that_runs_out_on_one_device_gives_way_on_all(
    base: ResidentBase, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, batch_size=6)
    one = trained(base, blueprint, 1, rows(), settings)
    honest, sizes = FusedLanguageModel.token_losses, []

    def short(self: FusedLanguageModel, batch: list[Example], **how: int) -> object:
        sizes.append(len(batch))
        if len(batch) > 1 and self.head is second_head:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, batch, **how)

    second_head = base.models(blueprint.spec, blueprint.initial)[1].get_base_model().lm_head.weight
    monkeypatch.setattr(FusedLanguageModel, "token_losses", short)
    memory = StepMemory()
    check_equal(trained(base, blueprint, 2, rows(), settings, memory=memory), one, blueprint)
    assert memory.recomputed == ALL_BLOCKS
    assert memory.cuts > 1
    assert max(sizes[-6:]) == 1, "the first device's batches are cut too"
    monkeypatch.setattr(FusedLanguageModel, "token_losses", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MachineError, match="a step over 24 tokens a sequence does not fit"):
        trained(base, blueprint, 2, rows(), settings)


@pytest.mark.slow
def test_devices_of_their_own_work_in_threads_with_the_bits_of_taking_turns(
    base: ResidentBase, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = trained(base, blueprint, 2, rows(), SETTINGS)
    # The CPU again, but as two devices.
    honest = replicas_module.at_once
    others = [torch.device("cpu"), torch.device("meta")]

    def apart(tasks: list[tuple[torch.device, Callable[[], object]]]) -> list[object]:
        return honest([(other, task) for other, (_, task) in zip(others, tasks, strict=False)])

    monkeypatch.setattr(replicas_module, "at_once", apart)
    threads = trained(base, blueprint, 2, rows(), SETTINGS)
    assert threads[0].flat.tobytes() == turns[0].flat.tobytes()
    assert threads[1] == turns[1]


def test_a_device_s_own_error_comes_before_a_lack_of_memory_and_after_all_have_ended() -> None:
    ended: list[str] = []

    def fails(error: Exception) -> Callable[[], None]:
        def work() -> None:
            ended.append(type(error).__name__)
            raise error

        return work

    tasks = [
        (torch.device("cpu"), fails(torch.OutOfMemoryError("CUDA out of memory"))),
        (torch.device("meta"), fails(ValueError("mine"))),
    ]
    with pytest.raises(ValueError, match="mine"):
        at_once(tasks)
    assert sorted(ended) == ["OutOfMemoryError", "ValueError"]


def test_shares_follow_sizes_and_keep_the_order() -> None:
    assert deal([5, 1, 1, 1, 1, 1], 2, size=int) == [[5], [1, 1, 1, 1, 1]]
    assert deal([3, 3, 3, 3], 2, size=int) == [[3, 3], [3, 3]]
    assert deal([7], 3, size=int) == [[], [7], []]
    assert deal([], 2, size=int) == [[], []]


@pytest.mark.slow
def test_a_client_trains_and_evaluates_over_its_devices(tiny: LocatedBase, blueprint: Blueprint) -> None:
    cpu = Compute(torch.device("cpu"), torch.float32)
    records = [Record(text=f"the number {number} is followed by {number + 1}. " * 4) for number in range(40)]
    settings = replace(SETTINGS, batch_size=4, local_steps=2, seq_len=32)

    def client(others: list[Compute]) -> PeftLocalModel:
        base = ResidentBase(tiny.directory, tiny.reference.fingerprint, cpu, seq_len=32, others=others)
        return PeftLocalModel(base, "ada", records, kind=RecordKind.TEXT, histogram={})

    one, two = client([]), client([cpu])
    assert one.base.identity != two.base.identity
    config, training = read_base_config(tiny.directory, Task.CAUSAL_LM), Training.of(settings, devices=2)
    size = size_of(config, blueprint.spec, value_bytes=4, on_cpu=True, training=training)
    assert size is not None
    # Half of a batch is what one entry of the list must hold, with half of the device's memory.
    two.base.memory_limit_bytes = 2 * int(1.08 * peak_bytes(size, sequences=2, seq_len=32, recomputed=0))
    found = []
    for model in (one, two):
        job = TrainJob(model, blueprint.spec, settings, blueprint.initial, blueprint.initial)
        assert (model.kinship(job) is None) == (model is two), "clients side by side are for one device"
        after = model.train(job).state
        found.append((after.flat, model.evaluate(blueprint.spec, after, settings)))
    assert two.base.step_memory == StepMemory()
    assert np.linalg.norm(found[1][0] - found[0][0]) <= ADAPTER * np.linalg.norm(found[0][0] - blueprint.initial.flat)
    assert found[1][1].losses == pytest.approx(found[0][1].losses, rel=LOSS)
