"""Give each simulated client its part of the split that the data holds out.

Clients by a column get the records with their own value of it. Other clients share the split out: of each class in
proportion to the client's training records of that class, so that both parts have the same skew. Random draws are not
needed: records are handed out in order, each to the client that is furthest behind its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out_by_value(values: Sequence[str | None], clients: Sequence[str]) -> list[list[int]]:
    """The records of each client.

    Args:
        values: of the held-out records in the column that tells the clients apart.

    Returns:
        For each client, the indices of its records, ascending.
    """
    parts: dict[str | None, list[int]] = {client: [] for client in clients}
    for index, value in enumerate(values):
        if value in parts:
            parts[value].append(index)
    return [parts[client] for client in clients]


def held_out_by_share(groups: NDArray[np.int64], trained: NDArray[np.int64]) -> list[list[int]]:
    """The records of each client.

    Args:
        trained: (clients, classes), the training records of each client by class.

    Returns:
        For each client, the indices of its records, ascending.
    """
    parts: list[list[int]] = [[] for _ in trained]
    for group in np.unique(groups):
        weights = trained[:, group].astype(np.float64)
        # No client trains on this class: it is shared out like all data.
        weights = weights if weights.any() else trained.sum(axis=1).astype(np.float64)
        shares = weights / weights.sum()
        given = np.zeros(len(parts))
        for count, index in enumerate(np.flatnonzero(groups == group), start=1):
            client = int(np.argmax(shares * count - given))
            given[client] += 1
            parts[client].append(int(index))
    return [sorted(part) for part in parts]
