"""Whether the intervals of held-out losses have the stated coverage: on the tiny base, with subsets of known wholes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import plait
from plait.data import Record, RecordKind
from plait.rounds.evaluation import SequenceLosses, mean_loss
from plait.rounds.local_model import TrainJob
from plait.training.blueprint import AdapterTemplate
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from tests.plait.training.conftest import SETTINGS as SMALL

ALL = 2**31
SETTINGS = replace(
    SMALL, local_steps=12, batch_size=8, held_out_fraction=0.5, max_held_out_sequences=ALL, total_steps=12
)
DRAWS = 600

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(resident: ResidentBase, blueprint: AdapterTemplate) -> dict[str, tuple[SequenceLosses, SequenceLosses]]:
    """Of three clients, every held-out sequence before and after training."""
    found = {}
    for room in ("report", "data", "exporting"):
        files = sorted(Path(plait.__file__).parent.joinpath(room).glob("*.py"))
        records = [Record(text="".join(file.read_text() for file in files)[:50_000])]
        client = PeftLocalModel(resident, room, records, kind=RecordKind.TEXT, histogram={})
        before = client.evaluate(blueprint.spec, blueprint.initial, SETTINGS)
        start = blueprint.initial
        trained = client.train(TrainJob(client, blueprint.spec, SETTINGS, received=start, start=start))
        found[room] = before, client.evaluate(blueprint.spec, trained.state, SETTINGS)
    return found


def part(whole: SequenceLosses, rows: np.ndarray) -> SequenceLosses:
    return SequenceLosses(tuple(whole.losses[row] for row in rows), tuple(whole.counts[row] for row in rows))


@pytest.mark.parametrize("sequences", [5, 16])
def test_an_interval_of_a_few_sequences_holds_the_loss_of_all_95_times_in_100(judged, sequences):
    generator = np.random.default_rng(7)
    # Every client weighs alike here, as it does in the subsets.
    loss = np.mean([after.loss for _, after in judged.values()])
    change = np.mean([after.loss - before.loss for before, after in judged.values()])
    assert change < -0.1
    held, margins = {"loss": 0, "change": 0}, []
    for _ in range(DRAWS):
        told = {}
        for name, (before, after) in judged.items():
            rows = generator.choice(len(after.losses), sequences, replace=False)
            told[name] = part(after, rows).since(part(before, rows))
        fields = mean_loss(told)
        held["loss"] += abs(fields.loss - loss) <= fields.loss_margin
        held["change"] += abs(fields.change - change) <= fields.change_margin
        margins.append((fields.change_margin, fields.loss_margin))
    # Three standard deviations of what 600 draws give around 95 %, and some for skewness.
    assert all(0.91 <= count / DRAWS <= 0.985 for count in held.values()), held
    assert np.mean(margins, axis=0)[0] < np.mean(margins, axis=0)[1]
