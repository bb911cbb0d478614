"""Two filters for NVFlare, used as its quantizer and dequantizer are: pack where data leave, unpack where they come.

Copy this file beside your job, allow both classes at the sites, and add to the recipe:

    recipe.add_server_output_filter(Pack(), tasks=["train"])
    recipe.add_client_input_filter(Unpack(), tasks=["train"])
    recipe.add_client_output_filter(Pack(), tasks=["train"])
    recipe.add_server_input_filter(Unpack(), tasks=["train"])

What a site has to remember is shared by the filters of a job's process. A client whose result did not come gets
everything in its next round.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.filter import FilterChainType, FilterContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

import plait

BLOB, HOLDS, TENSORS = "plait.compressed", "plait.holds", "plait.tensors"


@dataclass
class End:
    """One site's end: the server's way down, or a client's two ways."""

    down: plait.Broadcaster = field(default_factory=plait.Broadcaster)
    receiver: plait.Receiver = field(default_factory=plait.Receiver)
    sender: plait.Compressor = field(default_factory=plait.Compressor)
    arrays: dict[str, Any] = field(default_factory=dict)
    """The model as the server has it, or as the client got it."""
    holds: dict[str, bytes] = field(default_factory=dict)
    peer: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


ENDS: dict[tuple[str, str], End] = {}


class Turn(DXOFilter):
    """What both filters are: a turn at one end of one of the two ways."""

    def __init__(self) -> None:
        kinds = [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF]
        super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        """Pack or unpack."""
        del shareable
        end = ENDS.setdefault((fl_ctx.get_job_id(), fl_ctx.get_identity_name()), End())
        is_task = self.get_prop(FilterContextKey.CHAIN_TYPE) == FilterChainType.TASK_DATA_CHAIN
        with end.lock:
            end.peer = fl_ctx.get_peer_context().get_identity_name()
            return (self.task if is_task else self.result)(end, dxo)

    def task(self, end: End, dxo: DXO) -> DXO:
        """On the way down."""
        raise NotImplementedError

    def result(self, end: End, dxo: DXO) -> DXO:
        """On the way up."""
        raise NotImplementedError


class Pack(Turn):
    """At the server before a task leaves, at a client before a result does."""

    def task(self, end: End, dxo: DXO) -> DXO:
        """The step from what the client holds."""
        end.arrays = dxo.data
        end.down.update(dxo.data)
        # Taken, not looked up: one that does not answer gets everything the next time.
        message = end.down.encode(end.holds.pop(end.peer, b""))
        return packed(dxo, message, {TENSORS: isinstance(next(iter(dxo.data.values())), torch.Tensor)})

    def result(self, end: End, dxo: DXO) -> DXO:
        """What training changed."""
        change = {name: as_array(value) for name, value in dxo.data.items()}
        if dxo.data_kind == DataKind.WEIGHTS:
            change = {name: value - as_array(end.arrays[name]) for name, value in change.items()}
        return packed(dxo, end.sender.encode(change), {HOLDS: end.receiver.holds})


class Unpack(Turn):
    """At a client when a task comes, at the server when a result does."""

    def task(self, end: End, dxo: DXO) -> DXO:
        """The model that all clients train from."""
        found = end.receiver.decode(dxo.data[BLOB].tobytes())
        end.arrays = {name: torch.from_numpy(value) for name, value in found.items()} if dxo.meta[TENSORS] else found
        return DXO(dxo.data_kind, dict(end.arrays), dxo.meta)

    def result(self, end: End, dxo: DXO) -> DXO:
        """The client's change of the server's own model."""
        holds = dxo.meta.pop(HOLDS)
        if holds[:32] != end.down.digest:
            raise ValueError("a result is of another model than the one that was sent")
        change = plait.decompress(dxo.data[BLOB].tobytes(), like=end.arrays)
        end.holds[end.peer] = holds
        if dxo.data_kind == DataKind.WEIGHTS:
            change = {name: end.arrays[name] + value for name, value in change.items()}
        return DXO(dxo.data_kind, change, dxo.meta)


def packed(dxo: DXO, message: bytes, meta: dict[str, Any]) -> DXO:
    """A message in place of the model."""
    return DXO(dxo.data_kind, {BLOB: np.frombuffer(message, np.uint8)}, {**dxo.meta, **meta})


def as_array(value: Any) -> Any:
    """An array of numpy."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
