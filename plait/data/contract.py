"""What a user's own function of data must do; `plait check-plugin` runs these."""

from __future__ import annotations

from collections.abc import Callable

from plait.data.records import Dataset
from plait.own_code import BrokenError, Check


def _reads(load: Callable[[], Dataset]) -> str:
    dataset = load()
    columns = f", columns {', '.join(dataset.column_names)}" if dataset.column_names else ""
    return f"{len(dataset.records)} records of kind {dataset.kind}, {len(dataset.held_out)} held out{columns}"


def _same(load: Callable[[], Dataset]) -> None:
    first, second = load().fingerprint, load().fingerprint
    if first != second:
        raise BrokenError(
            f"fingerprint {second[:16]} the second time, {first[:16]} the first; such a run cannot resume"
        )


DATASET_CHECKS: tuple[Check[Callable[[], Dataset]], ...] = (
    Check("gives records that plait reads", _reads),
    Check("gives the same records again", _same),
)
"""The contract of a function that makes data."""
