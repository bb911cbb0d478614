"""How a base is held in fewer bits than it is computed in: by a feature, where there is one. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plait.errors import ConfigError
from plait.known_features import features
from plait.places import at

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from plait.adapters import Task
    from plait.training.device import Compute


class Holding(Protocol):
    """A base in four bits, or in eight on a CPU, with weights that `plait.training.fused.packed` knows."""

    def check(self, device: str) -> None:
        """Refuse a device that cannot hold a base in four bits.

        Args:
            device: its type, such as ``cpu``.

        Raises:
            ConfigError: it cannot, or a package is missing.
        """
        ...

    def arguments(self, compute: Compute, *, whole: Collection[str] = ()) -> dict[str, object]:
        """Arguments of transformers' `from_pretrained` for four bits on another device than a CPU.

        Raises:
            ConfigError: see `check`.
        """
        ...

    def loaded(self, model: nn.Module) -> None:
        """Make what was loaded with these arguments ready to train; in place."""
        ...

    def read(
        self,
        directory: Path,
        config: PretrainedConfig,
        *,
        task: Task,
        compute: Compute,
        attention: str,
        whole: Collection[str],
        whole_tables: bool,
        in_eight: bool,
    ) -> PreTrainedModel:
        """The base in `directory`, on a CPU.

        Args:
            in_eight: whether all is in eight bits instead of four.
        """
        ...

    def stored(self, directory: Path, config: PretrainedConfig) -> Mapping[str, tuple[int, int]]:
        """Values and bytes of each matrix that lies beside the base in a format that is used as it is."""
        ...


def holding() -> Holding:
    """How a base is held in few bits here.

    Raises:
        ConfigError: no feature can.
    """
    for feature in features():
        if feature.holding:
            return at(feature.holding)
    raise ConfigError("this installation cannot hold a base in four or eight bits")
