import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from client.task import Abandonment
from plait.adapters import AdapterState, AdapterTask, Layout, norm, subtract
from plait.errors import Abandoned
from plait.rounds.local_model import NOTHING, Carried, Trained
from plait.training import trainer
from plait.training.blueprint import AdapterTemplate
from plait.training.examples import IGNORED, Example
from plait.training.learner import EPSILON, FlatAdamW, Learner, TrainingInputs, schedule_factor
from plait.training.losses import BatchLoss
from plait.training.model_losses import ModelLosses
from plait.training.resident import ResidentBase, adapter_parameters, read_adapter
from plait.training.trainer import measure_losses
from plait.wire.settings import Settings
from tests.plait.training.conftest import SETTINGS as SMALL
from tests.plait.training.conftest import held, train_on

SETTINGS = replace(SMALL, local_steps=3, total_steps=3)


@pytest.fixture(scope="module")
def rows(resident: ResidentBase) -> list[Example]:
    generator = np.random.default_rng(0)
    return [Example(row, row) for row in generator.integers(3, 2000, (8, 32)).astype(np.int32)]


def trained(
    resident: ResidentBase, blueprint: AdapterTemplate, rows: list[Example], settings: Settings
) -> AdapterState:
    return train_on(resident, blueprint, rows, settings).state


def beginning(blueprint: AdapterTemplate) -> np.ndarray:
    """An adapter with no zeros in it."""
    return np.random.default_rng(1).normal(0, 0.02, blueprint.spec.layout.size).astype(np.float32)


def learner_of(
    examples: list[Example],
    settings: Settings,
    start: np.ndarray,
    sizes: list[int],
    *,
    trained: Sequence[bool] = (),
    task: AdapterTask = AdapterTask.CAUSAL_LM,
    carried: Carried = NOTHING,
) -> Learner:
    state = AdapterState(Layout.of({str(place): (size,) for place, size in enumerate(sizes)}), start)
    inputs = TrainingInputs(examples, settings, state, carried, task=task)
    return Learner(inputs, trained or [True] * len(sizes), device=torch.device("cpu"))


Run = Callable[..., Trained]


@pytest.fixture
def run(resident: ResidentBase, blueprint: AdapterTemplate, rows: list[Example]) -> Run:
    """Trains on all examples at once, so that their order does not matter."""

    def train(
        settings: Settings, state: AdapterState | None = None, *, examples: list[Example] = rows,
        clipped_to: float = 100.0, **options: Any,
    ) -> Trained:  # fmt: skip
        state = state or AdapterState(blueprint.spec.layout, beginning(blueprint))
        settings = replace(settings, batch_size=len(examples), max_grad_norm=clipped_to)
        return train_on(resident, blueprint, examples, settings, state=state, **options)

    return train


def test_an_evaluation_on_a_cpu_computes_short_sequences_together(resident, blueprint, rows, monkeypatch):
    model = resident.with_adapter(blueprint.spec, AdapterState(blueprint.spec.layout, beginning(blueprint)))
    sizes, measured = list[int](), BatchLoss.by_sequence
    monkeypatch.setattr(BatchLoss, "by_sequence", lambda self, batch: sizes.append(len(batch)) or measured(self, batch))
    together = measure_losses(model, rows, batch_size=1)
    monkeypatch.setattr(trainer, "ROWS", 1)
    apart = measure_losses(model, rows, batch_size=1)
    assert sizes == [len(rows)] + [1] * len(rows)
    assert together.losses == pytest.approx(apart.losses, rel=1e-5)


@pytest.mark.slow
def test_the_slope_along_a_movement_is_the_losss_derivative_before_any_step(run, resident, blueprint, rows):
    movement = np.random.default_rng(2).normal(0, 0.02, blueprint.spec.layout.size).astype(np.float32)
    # A norm that the gradient is clipped to and loss terms change the step alone.
    settings = replace(SETTINGS, max_grad_norm=1e-3, proximal=0.1)
    done = run(settings, carried=Carried(movement=movement))

    def loss(ahead: float) -> float:
        values = beginning(blueprint) + ahead * movement
        model = resident.with_adapter(blueprint.spec, AdapterState(blueprint.spec.layout, values))
        return measure_losses(model, rows, batch_size=8).loss

    assert done.report.slope == pytest.approx((loss(0.01) - loss(-0.01)) / 0.02, rel=0.05)


def test_the_slope_has_the_same_bits_wherever_the_movement_lies_in_memory(rows):
    generator, size = np.random.default_rng(3), 9_400
    gradient, values = torch.from_numpy(generator.normal(size=size).astype(np.float32)), generator.normal(size=size)

    def slope(offset: int) -> float | None:
        movement = np.empty(size + 16, np.float32)[offset : offset + size]
        movement[:] = values
        learner = learner_of(rows, SETTINGS, np.zeros(size, np.float32), [size], carried=Carried(movement=movement))
        learner.step([gradient], 1.0)
        return learner.finish(1.0).report.slope

    assert len({slope(offset) for offset in range(16)}) == 1


@pytest.mark.slow
def test_a_step_predicts_a_fall_of_a_quarter_of_the_loss_at_most_and_the_first_one_finds_the_rate_for_that(
    run, resident, blueprint, rows
):
    state = AdapterState(blueprint.spec.layout, beginning(blueprint))
    model = resident.with_adapter(blueprint.spec, state).train()
    parameters = adapter_parameters(model, blueprint.spec.layout)
    tokens = torch.stack([torch.from_numpy(row.tokens.astype(np.int64)) for row in rows])
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    gradient = torch.cat([cast("torch.Tensor", each.grad).flatten() for each in parameters]).double().numpy()

    def step(rate: float, clipped_to: float) -> tuple[float, Trained]:
        settings = replace(SETTINGS, local_steps=1, learning_rate=rate)
        done = run(settings, state=state, clipped_to=clipped_to)
        return float(gradient @ (state.flat.astype(np.float64) - done.state.flat)), done

    small, _ = step(1e-4, 100.0)
    assert step(2e-4, 100.0)[0] == pytest.approx(2 * small, rel=1e-2)
    limit = 0.25 * loss.item()
    rate = 1e-4 * limit / small  # reaches the limit
    below, done = step(0.9 * rate, 100.0)
    assert below == pytest.approx(0.9 * limit, rel=1e-2)
    assert (done.report.learning_rate, done.report.shortened) == (0.9 * rate, 0.0)
    for more in (2, 10, 1000):
        for clipped_to in (100.0, 0.01):
            shortened, done = step(more * rate, clipped_to)
            assert shortened == pytest.approx(limit, rel=1e-2)
            assert done.report.shortened == 1.0
    for clipped_to in (100.0, 0.01):
        first, done = step(0.0, clipped_to)
        assert first == pytest.approx(limit, rel=1e-2)
        assert done.report.learning_rate == pytest.approx(rate, rel=1e-2)
        assert done.report.shortened == 0.0


@pytest.mark.slow
def test_the_steps_after_the_first_take_the_learning_rate_that_it_found(run):
    unknown = replace(SETTINGS, learning_rate=0.0)
    found = run(unknown)
    rate = found.report.learning_rate
    assert rate
    given = run(replace(SETTINGS, learning_rate=rate))
    np.testing.assert_allclose(found.state.flat, given.state.flat, atol=1e-2 * rate)
    again = run(unknown, carried=Carried(learning_rate=rate))
    np.testing.assert_array_equal(again.state.flat, given.state.flat)
    assert again.report.learning_rate == rate
    higher = replace(unknown, found_rate_factor=2.0)
    one = run(replace(higher, local_steps=1))
    np.testing.assert_array_equal(one.state.flat, run(replace(unknown, local_steps=1)).state.flat)
    assert one.report.learning_rate == 2 * rate
    again = run(higher, carried=Carried(learning_rate=rate))
    np.testing.assert_array_equal(again.state.flat, given.state.flat)


def test_no_rate_is_found_that_is_larger_than_a_tensor_which_the_first_step_does_not_move():
    tokens = np.arange(3, 35, dtype=np.int32)

    def found(still: float, trained: tuple[bool, ...], task: AdapterTask) -> tuple[float | None, float]:
        """The rate, and how far the first step moved each value of the first tensor."""
        start = np.array([0, 0, still, -still, 0], np.float32)
        settings = replace(SETTINGS, learning_rate=0.0)
        learner = learner_of([Example(tokens, tokens)], settings, start, [2, 2, 1], trained=trained, task=task)
        learner.step([torch.full((2,), 0.5), torch.zeros(2), torch.zeros(1)], 2.0)
        done = learner.finish(0.0)
        return done.report.learning_rate, -float(done.state.flat[0])

    everything, language, classes = (True, True, True), AdapterTask.CAUSAL_LM, AdapterTask.CLASSIFICATION
    assert found(0.3, everything, language) == pytest.approx((0.3, 0.3))
    # A quarter of 2, over the gradient's norm of 1.
    assert found(0.7, everything, language) == pytest.approx((0.5, 0.5))
    assert found(0.3, (True, False, True), language) == pytest.approx((0.5, 0.5))
    # The first step of a classifier moves a new head.
    assert found(0.3, everything, classes) == pytest.approx((0.3, 0.5))


@pytest.mark.parametrize(
    ("prompt", "counted", "objective", "fraction"),
    [
        (90, 300, "sft", 0.25),
        (90, 63, "sft", 0.5),
        (90, 3, "sft", 1.0),
        (90, 63, "dpo:beta=0.1", 0.25),
        (1, 63, "sft", 0.25),  # of a text all tokens count but the first
    ],
)
def test_a_step_on_a_short_answer_may_predict_a_larger_fall(prompt, counted, objective, fraction):
    tokens = np.arange(3, 3 + prompt + counted, dtype=np.int32)
    short_answer = Example(tokens, np.where(np.arange(len(tokens)) < prompt, IGNORED, tokens).astype(np.int32))
    settings = replace(SETTINGS, learning_rate=0.0, batch_size=1, objective=objective)
    learner = learner_of([short_answer], settings, np.zeros(1, np.float32), [1])
    learner.draw()
    learner.step([torch.ones(1)], 2.0)
    assert learner.finish(0.0).report.learning_rate == pytest.approx(fraction * 2.0)


@pytest.mark.parametrize(
    ("schedule", "loss", "gradient", "expected"),
    [
        # The first step is of -0.1 twice, so a gradient of g has a slope of -0.2 g; a quarter of the loss is 1.
        ("slope", 4.0, -2.0, 0.1 / 1.4),
        ("slope", 4.0, 100.0, 0.4),
        ("slope", 4.0, -100.0, 0.05),
        ("slope", 4.0, math.inf, 0.1),
        # Shortened to a quarter of its length, so that 0.05 is predicted; a quarter of the loss is 0.05 as well.
        ("slope", 0.2, 0.3, 0.1),
        ("constant", 4.0, -2.0, 0.1),
    ],
)
def test_a_rate_follows_the_slope_where_the_last_step_ended_unless_that_step_was_shortened(
    schedule, loss, gradient, expected
):
    tokens = np.arange(3, 35, dtype=np.int32)
    settings = replace(SETTINGS, learning_rate=0.1, lr_schedule=schedule)
    learner = learner_of([Example(tokens, tokens)], settings, np.zeros(2, np.float32), [1, 1])
    for each in (1.0, gradient):
        learner.step([torch.full((1,), each)] * 2, loss)
    assert learner.finish(0.0).report.learning_rate == pytest.approx(expected, rel=1e-4)


def test_no_rate_is_found_where_nothing_can_be_learned():
    tokens = np.arange(3, 35, dtype=np.int32)
    nothing = [Example(tokens, np.where(np.arange(32) == 5, tokens, IGNORED).astype(np.int32))]
    start = np.array([0.5, -0.5, 0], np.float32)
    learner = learner_of(nothing, replace(SETTINGS, learning_rate=0.0), start, [2, 1])
    learner.draw()
    for loss in (0.0, 2.0):
        learner.step([torch.zeros(2), torch.zeros(1)], loss)
    still = learner.finish(0.0)
    np.testing.assert_array_equal(still.state.flat, start)
    assert still.report.learning_rate is None
    learner.step([torch.ones(2), torch.ones(1)], 2.0)
    rate = learner.finish(0.0).report.learning_rate
    assert rate
    assert np.isfinite(rate)


@pytest.mark.slow
def test_steps_equal_torchs_own_adamw_on_pefts_parameters(resident, blueprint, rows, monkeypatch):
    monkeypatch.setattr("plait.training.learner.LARGEST_FALL", math.inf)
    settings = replace(SETTINGS, weight_decay=0.1, max_grad_norm=0.05, batch_size=8)
    ours = trained(resident, blueprint, rows, settings)
    model = resident.with_adapter(blueprint.spec, blueprint.initial).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Its usual epsilon would make steps of small gradients smaller, and so tell their sizes.
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.1, eps=EPSILON)
    tokens = torch.stack([torch.from_numpy(row.tokens.astype(np.int64)) for row in rows])
    for _ in range(settings.local_steps):  # a batch of all rows: their order does not matter
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        optimizer.step()
        optimizer.zero_grad()
    theirs = read_adapter(model, blueprint.initial)
    assert norm(subtract(ours, theirs)) < 1e-3 * norm(subtract(theirs, blueprint.initial))


@pytest.mark.slow
def test_a_bfloat16_base_trains_float32_masters(tiny, blueprint, rows):
    after = trained(held(tiny, torch.bfloat16), blueprint, rows, replace(SETTINGS, learning_rate=1e-4))
    step = subtract(after, blueprint.initial).flat
    # Steps of 1e-4 on values of up to 0.09 would mostly vanish in bfloat16, whose neighbours are 2**-12 apart there.
    assert np.mean(step != 0) > 0.99
    assert np.abs(step).max() < 4e-4


@pytest.mark.slow
def test_accumulating_gradients_equals_one_large_batch(resident, blueprint, rows):
    whole = trained(resident, blueprint, rows, replace(SETTINGS, batch_size=4))
    parts = trained(resident, blueprint, rows, replace(SETTINGS, batch_size=2, gradient_accumulation_steps=2))
    assert norm(subtract(whole, parts)) < 1e-3 * norm(subtract(whole, blueprint.initial))


@pytest.mark.parametrize("side", ["A", "B"])
def test_only_the_trained_side_moves(run, resident, blueprint, side):
    settings = replace(SETTINGS, trained=side, weight_decay=0.1, proximal=0.1)
    values = np.random.default_rng(2).normal(0, 0.02, blueprint.spec.layout.size).astype(np.float32)
    before = AdapterState(blueprint.spec.layout, values)
    done = run(settings, state=before)
    after = done.state
    for number, slot in enumerate(blueprint.spec.layout.slots):
        same = before[slot.name] == after[slot.name]
        trains = f"lora_{side}" in slot.name
        assert same.mean() < 0.01 if trains else same.all()
        assert done.moments.steps[number] == (3 if trains else 0)
    carried = resident.with_adapter(blueprint.spec, before)
    assert all(parameter.requires_grad for parameter in adapter_parameters(carried, blueprint.spec.layout))


def test_fedprox_pulls_towards_the_adapter_received(run, blueprint):
    plain, pulled = (run(replace(SETTINGS, local_steps=2, proximal=mu)).moments.mean for mu in (0, 0.5))
    once = run(replace(SETTINGS, local_steps=1)).state.flat
    # The running mean takes a tenth of each gradient, and only the second step stands away from where it began.
    expected = 0.1 * 0.5 * (once - beginning(blueprint))
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(pulled - plain, expected, atol=1e-7)


@pytest.mark.slow
def test_carried_moments_make_two_runs_one(run, blueprint):
    whole = run(replace(SETTINGS, local_steps=4))
    settings = replace(SETTINGS, local_steps=2)
    half = run(settings)
    state = half.state
    rest, forgetful = (run(settings, state=state, carried=Carried(moments=m)) for m in (half.moments, None))
    assert rest.moments.steps == whole.moments.steps == (4,) * len(blueprint.spec.layout.slots)
    step = np.linalg.norm(whole.state.flat - half.state.flat)
    assert np.linalg.norm(rest.state.flat - whole.state.flat) < 1e-2 * step
    assert np.linalg.norm(forgetful.state.flat - whole.state.flat) > 0.1 * step


def test_training_stops_at_the_step_at_which_its_task_is_abandoned(run):
    steps: list[int] = []

    def heard(step: int, _loss: float) -> None:
        steps.append(step)
        if step == 1:
            abandonment.ask("enough")

    abandonment = Abandonment()
    with abandonment.obeyed(), pytest.raises(Abandoned, match="enough"):
        run(replace(SETTINGS, local_steps=9), on_step=heard)
    assert steps == [0, 1]


def test_masked_tokens_and_padding_do_not_count(resident, blueprint):
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    tokens = np.arange(5, 17, dtype=np.int32)
    labels = np.where(np.arange(12) >= 8, tokens, IGNORED).astype(np.int32)
    short, long = Example(tokens, labels), Example(np.arange(40, 72, dtype=np.int32), np.arange(40, 72, dtype=np.int32))
    logits = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].double()
    log_probability = torch.log_softmax(logits, dim=-1)
    expected = -sum(log_probability[position - 1, tokens[position]].item() for position in range(8, 12))
    alone = ModelLosses(model).total([short]).item()
    long_alone = ModelLosses(model).total([long]).item()
    both = ModelLosses(model).total([short, long]).item()
    assert alone == pytest.approx(expected, rel=1e-4)
    assert both == pytest.approx(alone + long_alone, rel=1e-4)


def test_schedules_span_the_whole_run():
    settings = replace(SETTINGS, total_steps=12, lr_schedule="linear")
    assert [schedule_factor(settings, step) for step in (0, 3, 6, 12)] == [1.0, 0.75, 0.5, 0.0]
    assert schedule_factor(replace(settings, lr_schedule="constant"), 11) == 1.0
    cosine = replace(settings, lr_schedule="cosine")
    assert [schedule_factor(cosine, step) for step in (0, 4, 6, 12)] == pytest.approx([1.0, 0.75, 0.5, 0.0])


def test_a_schedule_over_a_round_begins_anew_in_the_next():
    settings = replace(SETTINGS, local_steps=4, total_steps=12, lr_schedule="cosine", lr_schedule_over="round")
    for done in (0, 8):
        found = [schedule_factor(replace(settings, done_steps=done), done + step) for step in range(4)]
        assert found == pytest.approx([(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])


@pytest.mark.parametrize(("examples", "epochs"), [(10, 1 / 3), (7, 1 / 7), (23, 0.3), (49, 1 / 49), (5, 2.5)])
def test_the_parts_of_rounds_are_neighbours_and_none_is_empty(examples, epochs):
    rounds = round(1 / epochs) or 2
    parts = [replace(SETTINGS, round_epochs=epochs, round=number).part_of(examples) for number in range(1, rounds + 1)]
    assert all(parts)
    assert [place for part in parts for place in part] == list(range(round(rounds * epochs * examples)))


RATE = 1e-3


def stepped(gradients: list[np.ndarray]) -> np.ndarray:
    """What AdamW adds to zeros, given these gradients one after the other."""
    size = len(gradients[0])
    optimizer = FlatAdamW(
        np.zeros(size, np.float32), [size], [True], weight_decay=0.0, moments=None, device=torch.device("cpu")
    )
    for gradient in gradients:
        optimizer.take([torch.from_numpy(gradient.astype(np.float32))])
        optimizer.step(RATE)
    return optimizer.master.numpy().copy()


@pytest.fixture
def gradients() -> list[np.ndarray]:
    return [np.random.default_rng(seed).normal(size=1000) for seed in range(3)]


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-11])
def test_steps_tell_nothing_of_the_size_of_gradients(gradients, scale):
    usual = stepped(gradients)
    # Adam's own formula (arXiv 1412.6980, algorithm 1) without an epsilon, in float64.
    mean, square, expected = np.zeros(1000), np.zeros(1000), np.zeros(1000)
    for step, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= RATE * (mean / (1 - 0.9**step)) / np.sqrt(square / (1 - 0.999**step))
    np.testing.assert_allclose(usual, expected, atol=1e-3 * RATE)
    np.testing.assert_allclose(stepped([gradient * scale for gradient in gradients]), usual, atol=1e-3 * RATE)


def test_a_gradient_that_is_too_small_to_square_moves_nothing(gradients):
    assert not stepped([gradients[0] * 1e-30]).any()
