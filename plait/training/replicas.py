"""Replicas of one base on several devices that train one adapter: who computes what, and the sum of their gradients.

A step's sequences are dealt out in order, each to one replica, by their tokens. Every loss is a sum that is divided by
the whole step's count, so gradients are added, not averaged, in the order of the devices and in float32, and the
optimizer steps once, on the first device. Only the adapter travels: its gradients there, its new values back.

Replicas work in threads of one process: a GPU computes what it was given while Python goes on, so that one interpreter
keeps several busy, and data, rewards, losses of a user's own and their errors need no second process. Replicas on one
device take turns. Knows no loss and no optimizer.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from plait.training.optimizer import copy_all
from plait.training.step_memory import is_out_of_memory

T = TypeVar("T")
U = TypeVar("U")
Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Replica:
    """A base on one device, with the adapter in training.

    Attributes:
        parameters: of the adapter, in layout order.
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.parameters[0].device


def deal(units: Sequence[T], count: int, *, size: Callable[[T], int]) -> list[list[T]]:
    """Units dealt out in order, so that all get about the same.

    Returns:
        One list for each, some of them empty where there are few units.
    """
    found: list[list[T]] = [[] for _ in range(count)]
    total, before = sum(map(size, units)), 0
    for unit in units:
        # A unit belongs to the share that its middle lies in.
        found[(2 * before + size(unit)) * count // (2 * total) if total else 0].append(unit)
        before += size(unit)
    return found


def at_once(tasks: Sequence[tuple[torch.device, Callable[[], T]]]) -> list[T]:
    """The results of tasks, each on its device, in order; those on one device are done one after another.

    Raises:
        Exception: the first that a task raised, once all have ended; a lack of memory only if nothing else failed.
    """
    by_device: dict[torch.device, list[int]] = {}
    for number, (device, _) in enumerate(tasks):
        by_device.setdefault(device, []).append(number)
    done: dict[int, T] = {}
    failed: dict[int, Exception] = {}

    def work(device: torch.device, numbers: Sequence[int]) -> None:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            for number in numbers:
                try:
                    done[number] = tasks[number][1]()
                except Exception as error:  # raised below, once all replicas have stopped
                    failed[number] = error
                    return

    if len(by_device) == 1:
        work(*next(iter(by_device.items())))
    else:
        with ThreadPoolExecutor(len(by_device), thread_name_prefix="replica") as threads:
            context = contextvars.copy_context
            working = [threads.submit(context().run, work, device, numbers) for device, numbers in by_device.items()]
        for each in working:
            each.result()
    if failed:
        errors = [failed[number] for number in sorted(failed)]
        raise next((error for error in errors if not is_out_of_memory(error)), errors[0])
    return [done[number] for number in range(len(tasks))]


def over(replicas: Sequence[Replica], work: Callable[[Replica, U], T], given: Sequence[U]) -> list[T]:
    """The results of the same work on every replica, each with what is given to it."""

    def task(replica: Replica, own: U) -> Callable[[], T]:
        return lambda: work(replica, own)

    return at_once([(replica.device, task(replica, own)) for replica, own in zip(replicas, given, strict=True)])


@torch.no_grad()
def summed_gradients(replicas: Sequence[Replica]) -> list[Tensor | None]:
    """The gradients of the adapter's tensors, added in the order of the replicas, on the first one's device."""
    first = replicas[0]
    if len(replicas) == 1:
        return [parameter.grad for parameter in first.parameters]
    total: Tensor | None = None
    for replica in replicas:
        if all(parameter.grad is None for parameter in replica.parameters):
            continue
        # As one tensor, so that one copy crosses the bus.
        flat = torch.cat([
            parameter.new_zeros(parameter.numel()) if parameter.grad is None else parameter.grad.reshape(-1)
            for parameter in replica.parameters
        ])  # fmt: skip
        flat = flat.to(first.device, non_blocking=True).float()
        total = flat if total is None else total.add_(flat)
    if total is None:
        return [None for _ in first.parameters]
    parts = total.split([parameter.numel() for parameter in first.parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, first.parameters, strict=True)]


@torch.no_grad()
def follow(replicas: Sequence[Replica], values: Sequence[Tensor], trained: Sequence[bool]) -> None:
    """Give the models' parameters the master's values: the first all of them, the others those that train.

    Args:
        replicas: all with the same untrained values.
    """
    first, *others = replicas
    _copy(first.parameters, values)
    if not others:
        return
    moved = [value for value, trains in zip(values, trained, strict=True) if trains]
    types = {parameter.dtype for parameter in first.parameters}
    flat = torch.cat(moved).to(types.pop() if len(types) == 1 else torch.float32)
    for other in others:
        parameters = [parameter for parameter, trains in zip(other.parameters, trained, strict=True) if trains]
        there = flat.to(other.device, non_blocking=True)
        _copy(parameters, there.split([parameter.numel() for parameter in parameters]))


def seed(replicas: Sequence[Replica], number: int) -> None:
    """Seed what dropout draws: on every device something else, on the first what one device alone would draw."""
    torch.manual_seed(number)
    devices = dict.fromkeys(replica.device for replica in replicas)
    for place, device in enumerate(devices):
        if place and device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number + place)


def cards(replicas: Sequence[Replica]) -> list[torch.device]:
    """The CUDA devices among theirs."""
    return [device for device in dict.fromkeys(replica.device for replica in replicas) if device.type == "cuda"]


def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    copy_all(parameters, [flat.view_as(parameter) for parameter, flat in zip(parameters, values, strict=True)])
