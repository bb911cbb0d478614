"""Preferences under the tiny base: log-probabilities, the reference, and what is trained and measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from plait.adapters import AdapterTask
from plait.data import Message, Record, RecordKind
from plait.errors import DataError, PartError
from plait.objectives.formula import DPO, formula_named
from plait.rounds.local_model import TrainJob
from plait.training.examples import IGNORED
from plait.training.local_model import PeftLocalModel
from plait.training.preferences import PreferenceLoss, learn_references
from plait.training.tokenization import ExampleFormat, check_kind, tokenise
from tests.plait.training.conftest import SETTINGS as SMALL
from tests.plait.training.conftest import designed, moved

SETTINGS = replace(SMALL, batch_size=4, learning_rate=0.0, max_held_out_sequences=8, objective="dpo")


def pair(number: int, *, chosen: str = "yes", rejected: str = "no") -> Record:
    return Record(
        messages=(Message("user", f"is {number}?"),),
        chosen=(Message("assistant", f"{chosen} {number}"),),
        rejected=(Message("assistant", f"{rejected} {number}"),),
    )


PAIRS = [pair(number) for number in range(20)]


def client(resident, records=PAIRS, kind=RecordKind.PREFERENCE) -> PeftLocalModel:
    return PeftLocalModel(resident, "ada", records, kind=kind, histogram={})


def likelihood(model, example) -> float:
    """The log-probability of an example's labels, by the model's own logits, in float64."""
    tokens = torch.tensor(example.tokens[None].astype(np.int64))
    with torch.no_grad():
        scores = torch.log_softmax(model(input_ids=tokens).logits[0].double(), dim=-1)
    counted = np.flatnonzero(example.labels[1:] != IGNORED)
    return float(sum(scores[at, example.labels[at + 1]] for at in counted))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["lora", "dora", "ia3", "prompt", "full", "lora_xs", "vera", "bottleneck", "pfeiffer"]
)
def test_the_reference_is_the_base_and_leaves_the_adapter_as_it_was(tiny, resident, method):
    made = designed(tiny, method)
    split = client(resident).split(made.spec, SETTINGS)
    model = resident.with_adapter(made.spec, moved(made))
    model.train()
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    references = {}
    learn_references(references, model, split.train[:2])
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trains
    base = model.get_base_model()
    with model.disable_adapter():
        for example in split.train[:2]:
            expected = [likelihood(base, side) for side in example.sides if side is not None]
            np.testing.assert_allclose(references[example.digest], expected, rtol=1e-4)
    assert not np.isclose(likelihood(model.eval(), split.train[0].sides[0]), expected[0], rtol=1e-3)


@pytest.mark.slow
def test_losses_and_leads_are_those_of_the_replies_likelihoods(resident, blueprint):
    split = client(resident).split(blueprint.spec, SETTINGS)
    model, objective = resident.with_adapter(blueprint.spec, moved(blueprint)), formula_named("dpo:beta=0.3")
    references = {}
    learn_references(references, model, split.train)
    model.eval()
    batch = split.train[:3]
    losses, leads = PreferenceLoss(model, objective, references).by_example(batch)
    for number, example in enumerate(batch):
        chosen, rejected = (likelihood(model, side) for side in example.sides)
        first, second = references[example.digest]
        lead = 0.3 * ((chosen - first) - (rejected - second))
        assert leads[number] == pytest.approx(lead, rel=1e-3, abs=1e-4)
        assert losses[number] == pytest.approx(np.log1p(np.exp(-lead)), rel=1e-4)


def no_memory(_: torch.Tensor) -> object:
    raise torch.OutOfMemoryError("none is left")


@dataclass(frozen=True)
class Own(DPO):
    gives: Callable[[torch.Tensor], object] = torch.Tensor.sum

    def losses(self, sides):
        return self.gives(sides.chosen.likely)


@pytest.mark.parametrize(
    ("gives", "error", "message"),
    [
        (torch.Tensor.sum, PartError, r"objective 'Own' gave shape \(\), expected a number of each of 2 examples"),
        (lambda likely: {}[str(likely)], PartError, r"objective 'Own' failed: KeyError \(.*test_preferences.py, line"),
        # The step is tried again with less.
        (no_memory, torch.OutOfMemoryError, "none is left"),
    ],
)
def test_an_objective_of_ones_own_that_fails_is_one_line(resident, blueprint, gives, error, message):
    split = client(resident).split(blueprint.spec, SETTINGS)
    model, references = resident.with_adapter(blueprint.spec, moved(blueprint)), {}
    learn_references(references, model, split.train[:2])
    loss = PreferenceLoss(model, Own(gives=gives), references)
    for ask in (loss, loss.by_example):
        with pytest.raises(error, match=message):
            ask(split.train[:2])


@pytest.mark.slow
def test_training_prefers_the_chosen_reply_and_the_same_seed_gives_the_same_bits(resident, blueprint):
    local = client(resident)
    before = local.evaluate(blueprint.spec, blueprint.initial, SETTINGS)
    job = TrainJob(local, blueprint.spec, SETTINGS, blueprint.initial, blueprint.initial)
    trained = local.train(job)
    after = local.evaluate(blueprint.spec, trained.state, SETTINGS).since(before)
    early = before.since(None)
    assert trained.report.learning_rate
    assert after.loss < early.loss
    assert after.reward_margin > early.reward_margin
    assert after.correct >= early.correct
    assert after.tokens == after.examples == 4
    again = client(resident).train(replace(job, model=client(resident)))
    assert again.state.digest() == trained.state.digest()


def test_before_training_half_of_the_rewards_count_as_right(resident, blueprint):
    early = client(resident).evaluate(blueprint.spec, blueprint.initial, SETTINGS)
    assert replace(early, leads=(0.0,) * 4).since(None).correct == 2
    assert replace(early, leads=(0.0, 0.0, 0.0, -1.0)).since(None).correct == 1
    assert early.loss == pytest.approx(np.log(2), abs=1e-4)
    assert type(early).from_bytes(early.to_bytes()) == early


def test_a_reply_beyond_the_sequence_length_is_left_out_with_its_pair(resident):
    long = pair(1, chosen="x " * 200)

    def made(records, seq_len):
        return tokenise(
            records, resident.tokenizer, ExampleFormat(RecordKind.PREFERENCE, AdapterTask.CAUSAL_LM, (), seq_len, "dpo")
        )

    (example,) = made([long], 32)
    chosen, rejected = example.sides
    assert len(chosen.tokens) == 32 > len(rejected.tokens)
    prompt = int(np.flatnonzero(rejected.labels != IGNORED)[0])
    assert made([long], prompt) == []
    # Two replies that differ only beyond the end say nothing.
    assert made([pair(1, chosen="x " * 200, rejected="x " * 201)], 32) == []


def test_supervised_fine_tuning_of_pairs_learns_the_chosen_replies(resident):
    def made(records, kind):
        return tokenise(records, resident.tokenizer, ExampleFormat(kind, AdapterTask.CAUSAL_LM, (), 32))

    prompts = [Record(prompt=each.messages[0].content, completion=each.chosen[0].content) for each in PAIRS]
    got, expected = made(PAIRS, RecordKind.PREFERENCE), made(prompts, RecordKind.PROMPT)
    assert [each.digest for each in got] == [each.digest for each in expected]


@pytest.mark.parametrize(
    ("kind", "task", "objective", "said"),
    [
        (
            RecordKind.TEXT,
            AdapterTask.CAUSAL_LM,
            "dpo",
            "data has text records, expected prompt, chosen and rejected for obj",
        ),
        (RecordKind.PROMPT, AdapterTask.CAUSAL_LM, "dpo:beta=1", "expected prompt, chosen and rejected for obj"),
        (RecordKind.PREFERENCE, AdapterTask.CLASSIFICATION, "sft", "expected labelled text; choose --objective dpo"),
        (RecordKind.LABEL, AdapterTask.CAUSAL_LM, "sft", "label records, expected text, prompts or messages"),
    ],
)
def test_records_that_do_not_fit_the_objective_are_refused(kind, task, objective, said):
    with pytest.raises(DataError, match=said):
        check_kind(kind, task, objective)


def test_what_the_sequence_length_cuts_is_counted(resident, blueprint):
    records = [*PAIRS, pair(20, chosen="x " * 200), replace(pair(21), messages=(Message("user", "why " * 200),))]
    size = client(resident, records).data_size(blueprint.spec, SETTINGS)
    assert (size.cut_examples, size.left_out_examples) == (1, 1)
    whole = client(resident, records).data_size(blueprint.spec, replace(SETTINGS, seq_len=2048))
    assert (whole.cut_examples, whole.left_out_examples) == (0, 0)
    texts = client(resident, [Record(text="x = 1\n" * 400)], RecordKind.TEXT)
    packed = texts.data_size(blueprint.spec, replace(SETTINGS, objective="sft"))
    assert (packed.cut_examples, packed.left_out_examples) == (0, 0)
