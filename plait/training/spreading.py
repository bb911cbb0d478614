"""How a run is spread over several devices: by a feature, where there is one. Imports no torch.

Without it a client still deals out its batches over devices that hold the base each (`plait.training.replicas`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from plait.known_features import features
from plait.places import at

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plait.rounds.channel import Channel
    from plait.rounds.stop import StopRequest
    from plait.run import Run
    from plait.simulation.partitioned_data import Shares
    from plait.training.memory_plan import ModelSize, StepPlan


class Placement(Protocol):
    """Which device has which blocks of a base.

    Attributes:
        devices: in the order of the blocks.
    """

    @property
    def devices(self) -> Sequence[torch.device]: ...  # noqa: D102

    @property
    def blocks(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def by_module(self) -> Mapping[str, torch.device]: ...  # noqa: D102

    @property
    def in_words(self) -> str: ...  # noqa: D102

    def plan(self, size: ModelSize, *, batch: int, seq_len: int, budgets: Sequence[int]) -> StepPlan:
        """What a step gives up; arguments as of `plait.training.memory_plan.plan_step`."""
        ...

    def bytes_by_device(
        self, size: ModelSize, *, sequences: int, seq_len: int, recomputes: bool, elements: int
    ) -> list[int]:
        """Most memory that tensors take of each device during a step; arguments as of `peak_bytes`."""
        ...

    def move_between(self, model: nn.Module) -> None:
        """Have a model's modules move what they are given to where they lie; in place."""
        ...


class Workers(Protocol):
    """Simulated clients in other processes."""

    def channel(self, first: int, count: int, *, stop: StopRequest | None) -> Channel:
        """A channel to `count` clients from number `first` on; `stop` stops the run."""
        ...

    def close(self) -> None:
        """End the processes, or leave them to the next run."""
        ...


class Spreading(Protocol):
    """What several devices do for a run."""

    def check(self, run: Run) -> None:
        """Refuse parts of the user's own that other processes would not find.

        Raises:
            ConfigError: there is one.
        """
        ...

    def workers(self, run: Run, data: Shares, *, progress: Callable[[str], None]) -> Workers:
        """The processes of a simulated run; each starts with its first task."""
        ...

    def place(
        self,
        size: ModelSize,
        devices: Sequence[torch.device],
        *,
        seq_len: int,
        budgets: Sequence[int],
        host_has_room: bool,
    ) -> Placement | None:
        """Where the blocks lie if no device holds the whole base with its adapter, but all together do.

        Args:
            budgets: bytes that tensors and the allocator's waste may take of each device.
        """
        ...


def spreading() -> Spreading | None:
    """How a run is spread over devices here; None where no feature does it."""
    return next((at(each.spreading) for each in features() if each.spreading), None)
