"""A base that is larger than one device, placed over several: neighbouring blocks together, by memory.

Activations move to the next device between two blocks, and back in the backward pass; no weight moves. The embedding
lies with the first block, norm and head with the last; where they are one matrix there is one copy, with the last, and
the rows that are looked up move. An adapter's factors lie with their block, float32 masters and AdamW's moments beside
them (`learner`). Only for bases and adapters whose memory is predicted (`memory_plan`). Knows no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import torch
from torch import nn

from plait.training.memory_plan import (
    SLACK,
    FewBits,
    ModelSize,
    StepPlan,
    does_least_fit,
    halvings,
    peak_bytes,
    sampling_bytes,
)

Tensor = torch.Tensor


@dataclass(frozen=True)
class Placement:
    """Where the parts of a base lie.

    Attributes:
        devices: in the order of the blocks.
        tied: whether embedding and head are one matrix.
    """

    devices: tuple[torch.device, ...]
    blocks: tuple[int, ...]
    tied: bool

    @property
    def by_block(self) -> tuple[torch.device, ...]:
        """The device of each block."""
        return tuple(device for device, count in zip(self.devices, self.blocks, strict=True) for _ in range(count))

    @property
    def by_module(self) -> dict[str, torch.device]:
        """The device of each module, by its name in a base that `fused` knows."""
        first, last = self.devices[0], self.devices[-1]
        embedding = last if self.tied else first
        blocks = {f"model.layers.{number}": device for number, device in enumerate(self.by_block)}
        tables = {"model.embed_tokens": embedding, "model.rotary_emb": embedding, "model.norm": last, "lm_head": last}
        return {**tables, **blocks}

    @property
    def in_words(self) -> str:
        """Which device has which part, for people."""
        blocks = (f"{device} {count}" for device, count in zip(self.devices, self.blocks, strict=True))
        table = "embedding and head" if self.tied else "head"
        return f"one base over all, blocks of each: {', '.join(blocks)}; {table} with the last"

    def plan(self, size: ModelSize, *, batch: int, seq_len: int, budgets: Sequence[int]) -> StepPlan:
        """See `plan_over`."""
        return plan_over(size, self.blocks, batch=batch, seq_len=seq_len, budgets=budgets)

    def bytes_by_device(
        self, size: ModelSize, *, sequences: int, seq_len: int, recomputes: bool, elements: int
    ) -> list[int]:
        """See `bytes_by_device`."""
        return bytes_by_device(
            size, self.blocks, sequences=sequences, seq_len=seq_len, recomputes=recomputes, elements=elements
        )

    def move_between(self, model: nn.Module) -> None:
        """See `move_between`."""
        move_between(model, self)


def place(
    size: ModelSize, devices: Sequence[torch.device], *, seq_len: int, budgets: Sequence[int], host_has_room: bool
) -> Placement | None:
    """Where the blocks lie if no device holds the whole base with its adapter, but all together do.

    Args:
        budgets: bytes that tensors and the allocator's waste may take of each device.

    Returns:
        None if each of them holds it, or not even all do.
    """
    if len(devices) == 1 or does_least_fit(size, seq_len=seq_len, budgets=budgets, host_has_room=host_has_room):
        return None
    blocks = blocks_over(size, seq_len=seq_len, budgets=budgets)
    return None if blocks is None else Placement(tuple(devices), blocks, size.tied)


def blocks_over(size: ModelSize, *, seq_len: int, budgets: Sequence[int]) -> tuple[int, ...] | None:
    """How many blocks each device gets, in proportion to what it could hold of a step that gives up all it can.

    Args:
        size: of base and adapter.
        seq_len: tokens of a sequence of that step, which has as few as can be.
        budgets: bytes that tensors and the allocator's waste may take of each device.

    Returns:
        None if they do not fit.
    """
    layers, count = size.layers, len(budgets)

    def most(number: int) -> int:
        for blocks in range(layers + 1):
            needed = _on_one(
                size, number, count, blocks, sequences=size.training.whole, seq_len=seq_len, recomputes=True,
                elements=size.training.slices[-1],
            )  # fmt: skip
            if SLACK * needed > budgets[number]:
                return blocks - 1
        return layers

    room = [most(number) for number in range(count)]
    # One that cannot even hold its table is no place for it.
    if min(room[0], room[-1]) < 0 or sum(room) < layers:
        return None
    room = [max(0, each) for each in room]
    given = [layers * each // sum(room) for each in room]
    for number in sorted(range(count), key=lambda number: given[number] - layers * room[number] / sum(room)):
        if sum(given) < layers and given[number] < room[number]:
            given[number] += 1
    return tuple(given) if sum(given) == layers else None


def bytes_by_device(
    size: ModelSize, blocks: Sequence[int], *, sequences: int, seq_len: int, recomputes: bool, elements: int
) -> list[int]:
    """Most memory that tensors take of each device during a step."""
    return [
        _on_one(
            size, number, len(blocks), own, sequences=sequences, seq_len=seq_len, recomputes=recomputes,
            elements=elements,
        )
        for number, own in enumerate(blocks)
    ]  # fmt: skip


def plan_over(size: ModelSize, blocks: Sequence[int], *, batch: int, seq_len: int, budgets: Sequence[int]) -> StepPlan:
    """The plan for a base over several devices that gives up least: all blocks are computed twice, or none.

    Returns:
        Its peak is that of the fullest device.
    """
    last: StepPlan | None = None
    whole = size.training.whole
    sampled = [_sampled_on(size, number, len(blocks), own, seq_len=seq_len) for number, own in enumerate(blocks)]
    for cuts, recomputes, elements in product(halvings(batch // whole), (False, True), size.training.slices):
        sequences, own = whole * -(-batch // (whole * cuts)), replace(size, training=size.training.in_parts(cuts))
        needed = bytes_by_device(
            own, blocks, sequences=sequences, seq_len=seq_len, recomputes=recomputes, elements=elements
        )
        fits = [SLACK * each <= budget for each, budget in zip(needed, budgets, strict=True)]
        last = StepPlan(cuts, size.layers * recomputes, elements, False, max(needed), all(fits))
        if all(fit or each == own for fit, each, own in zip(fits, needed, sampled, strict=True)):
            return last
    return cast("StepPlan", last)


def _on_one(
    size: ModelSize, number: int, count: int, blocks: int, *, sequences: int, seq_len: int, recomputes: bool,
    elements: int,
) -> int:  # fmt: skip
    """Most memory that tensors take of one device with this many blocks."""
    own, table = _part(size, number, count, blocks)
    needed = peak_bytes(
        own, sequences=sequences, seq_len=seq_len, recomputed=blocks if recomputes else 0, slice_elements=elements
    )
    return needed + table


def _sampled_on(size: ModelSize, number: int, count: int, blocks: int, *, seq_len: int) -> int:
    """What of that is while completions are sampled."""
    own, table = _part(size, number, count, blocks)
    return sampling_bytes(own, seq_len=seq_len) + table


def _part(size: ModelSize, number: int, count: int, blocks: int) -> tuple[ModelSize, int]:
    """What one device has of a base, and the bytes of an embedding besides."""
    is_first, is_last = number == 0, number == count - 1
    factors = size.adapter * blocks // size.layers
    own = replace(
        size,
        layers=blocks,
        words=size.words if is_last else 0,
        tied=True,
        adapter=factors,
        cpu=_with_head(size.cpu, size, is_there=is_last),
        eight=_with_head(size.eight, size, is_there=is_last),
        training=replace(size.training, summed=False),  # no gradient is on two devices
    )
    return own, size.embedding_bytes if is_first and not size.tied else 0


def _with_head(few: FewBits | None, size: ModelSize, *, is_there: bool) -> FewBits | None:
    """What a device with the head, or without it, has in few bits, as of a base where head and embedding are one."""
    head = few and (few.embedding_bytes if size.tied else few.head_bytes)
    return few and replace(few, embedding_bytes=head if is_there else 0)


def move_between(model: nn.Module, placement: Placement) -> None:
    """Let transformers' own modules compute where their weights lie, as `fused` does by itself."""
    decoder = model.get_submodule("model")
    places: list[tuple[nn.Module, torch.device]] = [
        (decoder, placement.by_module["model.embed_tokens"]),
        (decoder.get_submodule("norm"), placement.devices[-1]),
        *zip(cast("nn.ModuleList", decoder.get_submodule("layers")), placement.by_block, strict=True),
    ]
    for module, device in places:
        module.register_forward_pre_hook(_moving(device), with_kwargs=True)


def _moving(device: torch.device) -> Any:
    def move(_module: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> tuple[object, object]:
        return _moved(given, device), {name: _moved(value, device) for name, value in named.items()}

    return move


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) is tuple:
        return tuple(_moved(each, device) for each in cast("tuple[object, ...]", value))
    return value
