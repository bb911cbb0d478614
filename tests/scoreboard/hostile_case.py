"""A hostile message of a server, and the honest one in its place: the types of all cases.

Knows nothing of how cases are sent and what happens to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from plait.adapters import AdapterState, Json
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Header, encode_delta, seal

BOMB = "(([a-z_.]+)+)+$"
OUTSIDE = "/hostile-outside"
TRAINER = "hostile_trainer:build"


class Target(StrEnum):
    """What a case is handed to."""

    SPEC = "spec"  # a participant that checks nothing else: text of a specification
    DIRECTORY = "directory"  # what reads a stranger's PEFT directory: adapter_config.json
    TASK = "task"  # a node at work on an honest run: (message type, bytes of a task)
    WELCOME = "welcome"  # a node that is taken in: its run configuration


@dataclass(frozen=True)
class Honest:
    """What an honest server would have said; cases are made by changing it."""

    run: Mapping[str, Json]
    spec: str
    spec_digest: bytes
    initial: AdapterState
    fingerprint: bytes
    run_id: bytes
    describe: bytes = b""
    train: bytes = b""
    evaluate: bytes = b""

    @property
    def facts(self) -> dict[str, Json]:
        return json.loads(self.spec)

    def header(self) -> Header:
        """Of the whole adapter that round 1 begins with."""
        return Header(
            direction=Direction.BROADCAST, run_id=self.run_id, round=0, client="", base_fingerprint=self.fingerprint,
            spec_digest=self.spec_digest, result_digest=self.initial.digest(), spec_json=self.spec,
        )  # fmt: skip

    def broadcast(self) -> bytes:
        """The whole adapter, exact."""
        return seal(self.header(), encode_delta(self.initial, codec_for("fp32"))).data


@dataclass(frozen=True)
class Case:
    """One hostile thing."""

    name: str
    target: Target
    make: Callable[[Honest], object]
