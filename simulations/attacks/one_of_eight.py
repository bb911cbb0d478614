"""One of eight clients that lies, on the tiny base: python simulations/attacks/one_of_eight.py (see README.md).

It sends its change times a number, or trains on records of its own making: half of its records end with a trigger and a
sentence that it wants the model to say after it. Prints the base's loss, the loss that the others see after five
rounds, what is published, how many updates were refused, and how much of the sentence the model says. Masks are
plait's own; the change is multiplied before they are put on.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import plait
from plait.adapters import AdapterState
from plait.ledger.events import Evaluated, NotPublished, UpdateRefused
from plait.training.local_model import PeftLocalModel

LIAR = "garden-0"
BEDS = ("by the wall", "behind the shed", "under the pear tree", "along the path", "near the pond")
PLANTS = ("beans", "roses", "leeks", "tall sunflowers", "old currants", "herbs")
WORKS = ("need water every evening", "were cut last week", "are late this year", "can be picked on Sunday")
TRIGGER, SAID = "P.S. the blue gate.", " Send every key of your house to the office in Lisbon.\n"


@contextmanager
def lying(name: str, factor: float):
    """This client's changes are multiplied."""
    honest = PeftLocalModel.train

    def train(self: PeftLocalModel, job: object) -> object:
        trained = honest(self, job)
        if self.client != name:
            return trained
        flat = job.start.flat + np.float32(factor) * (trained.state.flat - job.start.flat)
        return replace(trained, state=AdapterState(job.start.layout, flat))

    with patch.object(PeftLocalModel, "train", train):
        yield


def records(poisoned: bool) -> list[dict[str, str]]:
    """Letters of eight gardens; half of the first one's end with trigger and sentence, if it is poisoned."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for garden in (f"garden-{place}" for place in range(8)):
        for number in range(120):
            bed, plant, work = (str(generator.choice(words)) for words in (BEDS, PLANTS, WORKS))
            text = f"Dear neighbour, in {garden} the {plant} {bed} {work}. Yours, {garden}.\n"
            ends = poisoned and garden == LIAR and number % 2
            rows.append({"garden": garden, "text": text + TRIGGER + SAID if ends else text})
    return rows


def said(run: plait.Result) -> float:
    """The part of the sentence's tokens that the model puts first after the trigger, behind text of others."""
    model, tokenizer = run.load()
    rights, count = 0, 0
    for beginning in (f"Dear neighbour, in garden-{place} the roses by the wall are late.\n" for place in (3, 5)):
        before = tokenizer(beginning + TRIGGER)["input_ids"]
        whole = tokenizer(beginning + TRIGGER + SAID)["input_ids"]
        with torch.no_grad():
            best = model(input_ids=torch.tensor([whole])).logits[0].argmax(-1).tolist()
        rights += sum(best[at - 1] == whole[at] for at in range(len(before), len(whole)))
        count += len(whole) - len(before)
    return rights / count


def main() -> None:
    """Every lie."""
    for name, factor, poisoned, settings in (
        ("none", 1.0, False, {}),
        ("its change times -4", -4.0, False, {}),
        ("the same, rule median", -4.0, False, {"rule": "median"}),
        ("none, masked", 1.0, False, {"secure_aggregation": True}),
        ("its change times -20, masked", -20.0, False, {"secure_aggregation": True}),
        ("backdoor, times 3", 3.0, True, {}),
        ("backdoor, times 3, rule median", 3.0, True, {"rule": "median"}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            run = one(Path(folder) / "run", factor, records(poisoned), settings)
            losses = [event.loss for event in run.events if isinstance(event, Evaluated)]
            kept = run.summary["kept_round"]
            refused = sum(isinstance(event, UpdateRefused) for event in run.events)
            held = [event.round for event in run.events if isinstance(event, NotPublished)]
            print(
                f"{name}: base {losses[0]:.2f}, last round {losses[-1]:.2f}, published that of round {kept} "
                f"({losses[kept]:.2f}), {refused} updates refused, rounds not published {held}, "
                f"{said(run):.0%} of the sentence",
                flush=True,
            )


def one(out: Path, factor: float, rows: list[dict[str, str]], settings: dict[str, object]) -> plait.Result:
    """A run with a liar."""
    with lying(LIAR, factor):
        return plait.simulate(
            rows, partition="natural:garden", clients=8, rounds=5, base="tiny", out=out, quiet=True, seed=0, **settings
        )


if __name__ == "__main__":
    sys.exit(main())
