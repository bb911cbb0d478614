"""How a base is held in few bits. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plait.features.few_bits.training.four_bits import check_four_bits, four_bits, keep_trainable

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from plait.adapters import Task
    from plait.training.device import Compute


class FewBits:
    """See `plait.training.holding.Holding`."""

    def check(self, device: str) -> None:
        """Refuse a device that cannot."""
        check_four_bits(device)

    def arguments(self, compute: Compute, *, whole: Collection[str] = ()) -> dict[str, object]:
        """Those of bitsandbytes."""
        return four_bits(compute, whole=whole)

    def loaded(self, model: nn.Module) -> None:
        """Keep it trainable."""
        keep_trainable(model)

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
        """Piece by piece."""
        from plait.features.few_bits.training.base import load_in_few_bits

        return load_in_few_bits(
            directory,
            config,
            task=task,
            compute=compute,
            attention=attention,
            whole=whole,
            whole_tables=whole_tables,
            in_eight=in_eight,
        )

    def stored(self, directory: Path, config: PretrainedConfig) -> Mapping[str, tuple[int, int]]:
        """The matrices of a GGUF file beside the base."""
        from plait.features.few_bits.training.gguf_rows import gguf_sizes

        return gguf_sizes(directory, config)


HOLDING = FewBits()
