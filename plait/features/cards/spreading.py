"""How a run is spread over devices. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from plait.features.cards.training.placement import Placement
    from plait.features.cards.workers import Workers
    from plait.run import Run
    from plait.simulation.partitioned_data import Shares
    from plait.training.memory_plan import ModelSize


class OverDevices:
    """See `plait.training.spreading.Spreading`."""

    def check(self, run: Run) -> None:
        """Refuse parts that other processes would not find."""
        from plait.features.cards.workers import check_parts

        check_parts(run)

    def workers(self, run: Run, data: Shares, *, progress: Callable[[str], None]) -> Workers:
        """A process for each device."""
        from plait.features.cards.workers import Workers

        return Workers(run, data, progress=progress)

    def place(
        self,
        size: ModelSize,
        devices: Sequence[torch.device],
        *,
        seq_len: int,
        budgets: Sequence[int],
        host_has_room: bool,
    ) -> Placement | None:
        """By blocks."""
        from plait.features.cards.training.placement import place

        return place(size, devices, seq_len=seq_len, budgets=budgets, host_has_room=host_has_room)


SPREADING = OverDevices()
