"""How often a 95 % interval of a held-out loss holds the loss of all text: by cluster, and by sequence.

    python simulations/intervals/coverage.py [--draws 400]

Each text is measured whole on the base `tiny`, once. A draw holds out a tenth of its documents or groups, by another
key each time, and takes up to so many of their sequences, as a client does. Prints coverage and the interval's half.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from plait.adapters import AdapterTask
from plait.config import config_from_table
from plait.data import Record, RecordKind, as_dataset
from plait.rounds.evaluation import SequenceLosses
from plait.run import resolve
from plait.settle import settle
from plait.training.examples import Example, spread
from plait.training.holding_out import place_of
from plait.training.tokenization import ExampleFormat, tokenise
from plait.training.trainer import measure_losses

SEQ_LEN = 128
FRACTION = 0.1
MOST = (64, 1024)
_MOST_RECORDS = 600


def texts() -> dict[str, list[Record]]:
    """Three kinds of text: code by file, the same where files are tables that resemble each other, and news."""
    found = as_dataset("stdlib").records
    code = [record for record in found if record.columns["package"] not in ("encodings", "pydoc_data")][::4]
    tables = [record for record in found if record.columns["package"] == "encodings"]
    return {"code": code, "tables": tables, "news": list(as_dataset("bbc").records[:_MOST_RECORDS])}


def measured(records: Sequence[Record]) -> tuple[list[Example], np.ndarray]:
    """The sequences of all documents, and the loss of each."""
    run = resolve(settle(config_from_table({"base": "tiny", "seq-len": SEQ_LEN, "dtype": "float32"})))
    base, adapter = run.load_base(), run.ranks.master
    plain = [Record(text=record.text) for record in records]
    examples = tokenise(plain, base.tokenizer, ExampleFormat(RecordKind.TEXT, AdapterTask.CAUSAL_LM, (), SEQ_LEN))
    model = base.with_adapter(adapter.spec, adapter.initial)
    found = measure_losses(model, examples, task=AdapterTask.CAUSAL_LM, pad_token=base.pad_token, batch_size=8)
    return examples, np.asarray(found.losses)


def _count(example: Example) -> int:
    return len(example.tokens) - 1


def coverage(
    examples: Sequence[Example], losses: np.ndarray, *, most: int, draws: int, by_cluster: bool
) -> tuple[float, float, float]:
    """How often the interval holds the loss of all, its half on average, and the part of draws that have one."""
    whole = losses.sum() / sum(map(_count, examples))
    loss_of = {id(each): float(loss) for each, loss in zip(examples, losses, strict=True)}
    held, halves, known = 0, list[float](), 0
    names = sorted({each.record for each in examples})
    for draw in range(draws):
        out = {name for name in names if place_of(f"{draw} {name}") < FRACTION}
        chosen = spread([each for each in examples if each.record in out], most)
        owners = tuple(each.record for each in chosen) if by_cluster else ()
        measured = tuple(loss_of[id(each)] for each in chosen)
        found = SequenceLosses(measured, tuple(map(_count, chosen)), clusters=owners).since(None)
        if found.margin is None:
            continue
        known += 1
        halves.append(found.margin)
        held += abs(found.loss - whole) <= found.margin
    return held / max(known, 1), float(np.mean(halves)) if halves else 0.0, known / draws


def main() -> None:
    """Print a row for each text and number of sequences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    for name, records in texts().items():
        examples, losses = measured(records)
        for most in MOST:
            by = [coverage(examples, losses, most=most, draws=draws, by_cluster=each) for each in (True, False)]
            (cluster, half, known), (alone, _, _) = by
            what = f"{name:8} {len(records):5} documents, at most {most:4} sequences"
            print(f"{what}: {cluster:.1%} (± {half:.3f}, {known:.0%} of draws), by sequence {alone:.1%}", flush=True)


if __name__ == "__main__":
    main()
