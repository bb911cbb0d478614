"""Calls that a server answers besides those of a federation, and who may make them. Knows none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc

from plait.trust.roles import Role


@dataclass(frozen=True)
class MoreCalls:
    """A gRPC service of such calls.

    Attributes:
        handlers: from threads for what reads or writes files to the handlers of its calls, by name.
    """

    service: str
    handlers: Callable[[Executor], Mapping[str, grpc.RpcMethodHandler[Any, Any]]]
    roles: Mapping[str, Sequence[Role]]

    def served(self, disk: Executor) -> grpc.GenericRpcHandler:
        """The calls as gRPC takes them."""
        return grpc.method_handlers_generic_handler(self.service, dict(self.handlers(disk)))

    @property
    def allowed(self) -> dict[str, frozenset[Role]]:
        """The roles that may make each call, by gRPC's name of it."""
        return {f"/{self.service}/{name}": frozenset(roles) for name, roles in self.roles.items()}
