"""The settings and adapter that a client holds, brought up to date with a task.

The server can send all of it again: a client that lost it asks for the full version. Knows no data and no training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout, SpecRequest, parse_spec
from plait.errors import BaseMismatchError, ConfigError, PeerError
from plait.rounds.broadcasts import take_step
from plait.rounds.local_model import LocalModel
from plait.rounds.memory import Memory
from plait.wire.envelope import Direction, Header, Opened, Received, unpack
from plait.wire.settings import Settings, digest_of


class NeedFullError(PeerError):
    """A task is relative to something that this client does not hold."""


@dataclass(eq=False)
class Holdings:
    """The values that one client holds of one run.

    Attributes:
        max_rank: the largest rank that the client can carry; 0 for any.
    """

    model: LocalModel
    memory: Memory
    _: KW_ONLY
    max_rank: int

    def carries(self, request: SpecRequest) -> bool:
        """Whether the client can carry this adapter."""
        return not self.max_rank or request.rank <= self.max_rank

    def keep_spec(self, text: str) -> None:
        """Store a spec; the current adapter stays, because a restarted server asks again and continues from it."""
        self.memory.save("spec", text.encode())

    def keep_settings(self, settings: Settings) -> None:
        """Store the text of the run's settings."""
        self.memory.save("settings", settings.text.encode())

    def settings_text(self, digest: bytes) -> str:
        """The text of settings by its digest; empty if not held."""
        text = (self.memory.load("settings") or b"").decode(errors="replace")
        return text if digest_of(text) == digest else ""

    def catch_up(self, broadcast: Received) -> tuple[AdapterSpec, AdapterState]:
        """The adapter that the server means, from the one held and the broadcast; it is then held.

        Raises:
            NeedFullError: the broadcast is relative to an adapter that is not held.
            ConfigError: the client cannot carry the adapter.
            PeerError: the broadcast is not valid, or of another base.
        """
        header = broadcast.header
        if header.direction != Direction.BROADCAST:
            raise PeerError("envelope is an update, expected a broadcast")
        if header.base_fingerprint != self.model.base_fingerprint:
            raise BaseMismatchError(
                f"base of the broadcast is {header.base_fingerprint.hex()[:16]}, "
                f"expected {self.model.base_fingerprint.hex()[:16]}"
            )
        spec_json = header.spec_json or self._recall("spec").decode()
        if not self.carries(request := parse_spec(spec_json)):
            raise ConfigError(
                f"rank of the adapter is {request.rank}, expected at most {self.max_rank}, this client's max-rank"
            )
        spec, initial = self.model.prepare(spec_json)
        if spec.digest != header.spec_digest:
            raise NeedFullError(f"adapter spec is {header.spec_digest.hex()[:16]}, held is {spec.digest.hex()[:16]}")
        opened = unpack(broadcast, layout=spec.layout)
        state = opened.delta
        if header.relative_to:
            state = self._step(header, opened, (self._adapter(spec.layout), initial))
        if state.digest() != header.result_digest:
            raise NeedFullError("the adapter after the broadcast is not the one that the server means")
        self.keep_spec(spec_json)
        self.memory.save("adapter", state.flat.tobytes())
        return spec, state

    @staticmethod
    def _step(header: Header, opened: Opened, candidates: Iterable[AdapterState | None]) -> AdapterState:
        for candidate in filter(None, candidates):
            digest = candidate.digest()
            if digest == header.result_digest:
                return candidate
            if digest == header.relative_to:
                return take_step(candidate, opened.delta, opened.encoding.codec)
        raise NeedFullError(f"adapter {header.relative_to.hex()[:16]} is not held here")

    def _adapter(self, layout: Layout) -> AdapterState | None:
        data = self.memory.load("adapter")
        if data is None or len(data) != 4 * layout.size:
            return None
        return AdapterState(layout, np.frombuffer(data, np.float32))

    def _recall(self, key: str) -> bytes:
        data = self.memory.load(key)
        if data is None:
            raise NeedFullError(f"nothing is held under '{key}'")
        return data
