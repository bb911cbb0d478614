"""Short records to the first clients, long ones to the last."""

from collections.abc import Sequence

import numpy as np

from plait.data import Dataset


def by_length(dataset: Dataset, clients: int, seed: int, *, descending: bool = False) -> list[Sequence[int]]:
    """Equal shares of the records, sorted by length."""
    order = np.random.default_rng(seed).permutation(len(dataset.records)).tolist()
    order.sort(key=lambda index: len(dataset.records[index].content), reverse=descending)
    return [part.tolist() for part in np.array_split(order, clients)]
