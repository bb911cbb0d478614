import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from plait.adapters import AdapterTask
from plait.data import Record, RecordKind
from plait.errors import TooLittleDataError
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.local_model import LocalModel, TrainJob
from plait.training.blueprint import AdapterTemplate
from plait.training.examples import Example, order, visited
from plait.training.local_model import PeftLocalModel, data_seed
from plait.training.resident import ResidentBase
from plait.wire.settings import Settings
from tests.plait.training.conftest import SETTINGS


def job_of(model: LocalModel, blueprint: AdapterTemplate, settings: Settings) -> TrainJob:
    return TrainJob(model, blueprint.spec, settings, received=blueprint.initial, start=blueprint.initial)


def client(resident: ResidentBase, name: str, text: str) -> PeftLocalModel:
    return PeftLocalModel(resident, name, [Record(text=text)], kind=RecordKind.TEXT, histogram={name: 1})


@pytest.fixture
def ada(resident: ResidentBase) -> PeftLocalModel:
    return client(resident, "ada", "def add(left, right):\n    return left + right\n" * 40)


@pytest.mark.slow
def test_training_helps_the_held_out_part_and_leaves_the_given_state_alone(ada, blueprint):
    digest = blueprint.initial.digest()
    before = ada.evaluate(blueprint.spec, blueprint.initial, SETTINGS)
    trained = ada.train(job_of(ada, blueprint, SETTINGS))
    after = ada.evaluate(blueprint.spec, trained.state, SETTINGS)
    assert after.loss < before.loss - 0.2
    assert trained.report.tokens == 6 * 2 * 32
    assert blueprint.initial.digest() == digest


@pytest.mark.slow
@pytest.mark.parametrize(("method", "measured"), [("lora", 1), ("dora", 2)])
def test_an_adapter_without_effect_is_measured_once_for_all_seeds(ada, resident, blueprint, method, measured):
    known: dict[tuple[bytes, ...], SequenceLosses] = {}

    def recall(inputs: Sequence[bytes], measure: Callable[[], SequenceLosses]) -> SequenceLosses:
        found = measure()
        assert known.setdefault(tuple(inputs), found) == found
        return found

    ada.recall = recall
    for seed in (1, 2):
        settings = {**blueprint.spec.peft_config, "use_dora": method == "dora"}
        spec = replace(blueprint.spec, method=method, init_seed=seed, peft_config=settings)
        design = resident.prepare(spec.text)
        ada.evaluate(design.spec, design.initial, SETTINGS)
    assert len(known) == measured
    ada.evaluate(blueprint.spec, blueprint.initial, replace(SETTINGS, max_held_out_sequences=2))
    assert len(known) == measured + 1


def test_sizes_are_counted_under_the_settings_of_the_task(ada, blueprint):
    short = ada.data_size(blueprint.spec, replace(SETTINGS, seq_len=16))
    long = ada.data_size(blueprint.spec, SETTINGS)
    assert short.train_examples > 1.8 * long.train_examples
    assert long.train_tokens == 32 * long.train_examples
    assert long.histogram == {"ada": 1}


class TestBatches:
    """Which examples come together, and how much of the data an update covers."""

    def order_of(self, model: PeftLocalModel, blueprint: AdapterTemplate, seed: int) -> list[int]:
        split = model.split(blueprint.spec, SETTINGS)
        return list(islice(order(split.train, data_seed(seed, split), AdapterTask.CAUSAL_LM), 8))

    def test_the_order_follows_from_the_seed_and_from_the_data(self, resident, blueprint):
        texts = [f"line {number} of one text or another\n" * 40 for number in range(9)]
        models = [client(resident, "ada", text) for text in texts]
        orders = [self.order_of(model, blueprint, 5) for model in models]
        assert orders == [self.order_of(client(resident, "other", text), blueprint, 5) for text in texts]
        # The seed alone would give one order to all that have as many examples.
        same_count = {len(model.split(blueprint.spec, SETTINGS).train) for model in models}
        assert len(same_count) < len({tuple(each) for each in orders})
        assert self.order_of(models[0], blueprint, 5) != self.order_of(models[0], blueprint, 6)

    def test_a_classifier_meets_every_class_in_proportion_within_a_few_steps(self):
        labels = [0] * 60 + [1] * 25 + [2] * 14 + [3]
        examples = [Example(np.asarray([0], np.int32), np.asarray([label], np.int32)) for label in labels]
        firsts = np.zeros(len(labels))
        for seed in range(300):
            indices = list(islice(order(examples, seed, AdapterTask.CLASSIFICATION), 2 * len(labels)))
            # All once, then all again in another order.
            assert sorted(indices[: len(labels)]) == sorted(indices[len(labels) :]) == list(range(len(labels)))
            assert indices[: len(labels)] != indices[len(labels) :]
            counts = np.bincount([labels[index] for index in indices[:20]], minlength=4)
            assert np.all(np.abs(counts - [12, 5, 2.8, 0.2]) <= 2)
            firsts[indices[:20]] += 1
        # Each is among the first fifth as often as every other, also the only one of its class.
        assert np.all(np.abs(firsts / 300 - 0.2) < 0.12)

    @pytest.mark.parametrize("steps", [1, 6, 1000])
    def test_coverage_counts_each_example_that_is_visited_once(self, resident, blueprint, steps):
        text = "".join(f"this is line {number} of a text without repetition\n" for number in range(10, 60))
        model = client(resident, "ada", text)
        settings = replace(SETTINGS, local_steps=steps)
        split = model.split(blueprint.spec, settings)
        visited = set(islice(order(split.train, data_seed(settings.seed, split), AdapterTask.CAUSAL_LM), 2 * steps))
        covered = model.coverage(blueprint.spec, settings)
        assert covered.examples == len(visited)
        assert covered.tokens == sum(len(split.train[index].tokens) for index in visited)

    def test_what_is_there_many_times_counts_once(self, resident, blueprint):
        records = [Record(text="one and the same\n")] * 400
        model = PeftLocalModel(resident, "ada", records, kind=RecordKind.TEXT, histogram={})
        split = model.split(blueprint.spec, replace(SETTINGS, local_steps=100))
        different = {example.tokens.tobytes() for example in split.train}
        covered = model.coverage(blueprint.spec, replace(SETTINGS, local_steps=100))
        assert covered.examples == len(different) < len(split.train)
        assert covered.tokens == SETTINGS.seq_len * len(different)


def test_the_parts_of_an_epoch_cover_all_data_once_and_are_work_that_a_policy_sees(ada, blueprint):
    split = ada.split(blueprint.spec, SETTINGS)
    every = replace(SETTINGS, round_epochs=0.5)
    parts = [visited(split.train, replace(every, round=number), AdapterTask.CAUSAL_LM) for number in (1, 2)]
    assert sorted(id(each) for part in parts for each in part) == sorted(map(id, split.train))
    covered = ada.coverage(blueprint.spec, replace(every, round=1))
    assert covered.steps == math.ceil(len(parts[0]) / 2)
    assert covered.trained_tokens == covered.steps * 2 * 32
    with pytest.raises(TooLittleDataError, match="give more epochs, or fewer rounds"):
        ada.data_size(blueprint.spec, replace(SETTINGS, round_epochs=0.9 / len(split.train)))


def test_texts_that_are_not_packed_are_sequences_of_their_own(resident, blueprint):
    texts = [Record(text="a few words"), Record(text="one more " * 40), Record(text="and the last")]
    model = PeftLocalModel(resident, "ada", texts, kind=RecordKind.TEXT, histogram={})
    split = model.split(blueprint.spec, replace(SETTINGS, packing=False))
    examples = [*split.train, *split.held_out]
    assert sorted(example.record for example in examples) == [0, 1, 2]
    assert [example.is_cut for example in sorted(examples, key=lambda each: each.record)] == [False, True, False]
