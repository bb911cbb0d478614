"""The gRPC server: a port, TLS, the federation's service and grpc-health, in a separate event loop and thread.

Starts, tends and drains; knows nothing of the service's work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from plait.address import Address
from plait.errors import MachineError
from plait.transport.credentials import SERVER_OPTIONS
from server.log import say
from server.service import SERVICE_NAME, FederationService

_START_S = 30.0
_TEND_EVERY_S = 0.25
_DRAIN_S = 5.0


@dataclass(eq=False)
class GrpcServer:
    """Serves one federation from `start` to `stop`.

    Attributes:
        credentials: TLS; None for none.
        service: makes the service, inside the loop that it will run in.
        tend: called several times per second in that loop.
        drain: called in that loop before it stops; tells the nodes.
        options: gRPC's, in addition to the protocol's own.
    """

    address: Address
    credentials: grpc.ServerCredentials | None
    _: KW_ONLY
    service: Callable[[], FederationService]
    more: Sequence[grpc.GenericRpcHandler] = ()
    guard: grpc.aio.ServerInterceptor
    tend: Callable[[], None]
    drain: Callable[[], None]
    options: Sequence[tuple[str, int]] = ()

    def __post_init__(self) -> None:
        self._started: Future[Address] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="plait-grpc", daemon=True)

    def start(self) -> Address:
        """Listen; returns the address, with the actual port for a 0.

        Raises:
            ConfigError: not an address of this machine.
            MachineError: the port is taken.
        """
        self.address.check_free()
        self._thread.start()
        return self._started.result(_START_S)

    def check(self) -> None:
        """Check that it is still serving.

        Raises:
            MachineError: it ended without being stopped.
        """
        if self._failure is not None:
            raise MachineError(f"the gRPC service ended: {type(self._failure).__name__}: {self._failure}")

    def stop(self) -> None:
        """Drain and stop; does nothing the second time."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                self._failure = error
                say("service-ended", level=logging.CRITICAL, error=type(error).__name__, detail=error)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=(*SERVER_OPTIONS, *self.options), interceptors=[self.guard])
        healthy = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] (set while importing)
        server.add_generic_rpc_handlers((self.service().handlers, *self.more, _health(healthy)))
        port = self._listen(server)
        await server.start()
        for name in ("", SERVICE_NAME):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._started.set_result(Address(self.address.host, port))
        while not self._stopping.is_set():
            self.tend()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TEND_EVERY_S)
        await healthy.enter_graceful_shutdown()
        self.drain()
        # Ends as soon as the calls in progress have.
        await server.stop(_DRAIN_S)
        # Calls that were cut off are still ending; gRPC would print a traceback for each that the loop's end cancels.
        if ending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ending, timeout=_DRAIN_S)

    def _listen(self, server: grpc.aio.Server) -> int:
        try:
            if self.credentials is None:
                port = server.add_insecure_port(str(self.address))
            else:
                port = server.add_secure_port(str(self.address), self.credentials)
        except RuntimeError as error:
            raise MachineError(f"cannot listen on {self.address}, is another server running there?") from error
        if not port:
            raise MachineError(f"cannot listen on {self.address}, is another server running there?")
        return port


def _health(servicer: Any) -> grpc.GenericRpcHandler:
    """grpc-health without Watch, a call that never ends."""
    check = grpc.unary_unary_rpc_method_handler(
        servicer.Check,
        health_pb2.HealthCheckRequest.FromString,
        health_pb2.HealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check})
