"""Settings of what the run computes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import Table
from plait.traits import Stated, Trait


class MachineSettings(Table):
    """What the run computes on."""

    table: ClassVar[str] = "machine"
    heading: ClassVar[str] = "Machine"

    device: str = "auto"
    """device to compute on; a list such as cuda:0,cuda:1 spreads simulated clients over one process per entry; a device
    named twice is shared by two
    """
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """compute type of the frozen base"""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 means torch's default"""

    @property
    def has_several_devices(self) -> bool:
        """Whether `device` is a list, whose entries `plait.training.device.choose_devices` reads."""
        return "," in self.device

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.has_several_devices:
            yield self.says("device", takes={Trait.RELEASED: "a client in a process of its own cannot be"})
