"""Servers and nodes of small federations in separate processes, to be killed; forked, so that none imports anew.

Everything but the model is plait's own: coordinator, run directory, gRPC, node, client state on disk.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from scoreboard.small_federation import HONEST, FakeModel, of_numbers

from client.node import Node
from client.session import Backoff
from client.settings import NodeSettings, memory_folder
from client.task import Journal, OfferedRun, Style, TaskRunner, participant_runner
from plait.adapters import Layout
from plait.errors import PeerError, check_abandoned
from plait.ledger.ledger import Line, read_lines
from plait.rounds.client_pipeline import ClientPipeline, PlainSender
from plait.rounds.local_model import Trained
from plait.rounds.memory import DiskMemory
from plait.rounds.participant import Participant
from plait.system.address import Address
from plait.trust.kit import ClientKit, ServerKit
from plait.v1 import federation_pb2 as pb
from server.hosting import Terms
from server.nodes_channel import NodesChannel
from server.uploads import Limits
from tests import waiting
from tests.killing import Fuse

RUN_ID = 7
# Where a defence is taken out, what is waited for will not happen.
PATIENCE_S = 20.0 if os.environ.get("PLAIT_SCOREBOARD_WITHOUT") else 180.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["scoreboard.processes", "scoreboard.mutations"])


@dataclass(frozen=True)
class PacedModel(FakeModel):
    """A model that takes its time."""

    train_s: float = 0.0

    def train(self, job) -> Trained:
        end = time.monotonic() + self.train_s
        while time.monotonic() < end:
            check_abandoned()
            time.sleep(0.01)
        return super().train(job)


@dataclass(frozen=True)
class Job:
    """A federation, for its server and its clients alike; arguments are those of the `Federation`."""

    folder: Path
    arguments: Mapping[str, object]
    names: Sequence[str] = tuple(HONEST)
    kits: Path | None = None  # what `plait provision` made; None for no TLS and no keys
    train_s: float = 0.0
    wide: int = 0  # columns of a larger adapter; 0 for the small one
    grace_s: float = 30.0

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def model(self, number: int) -> PacedModel:
        """The data and base of a client."""
        layout = (
            Layout.of({"layer.lora_A.weight": [2, self.wide], "layer.lora_B.weight": [3, 2]}) if self.wide else None
        )
        return PacedModel(float(number % 7) - 2.0, 2 + number % 5, layout=layout, train_s=self.train_s)

    def federation(self):
        models = {name: self.model(number) for number, name in enumerate(self.names)}
        if self.wide:
            # In the server's own process, which serves nothing else.
            of_numbers.layout_of = lambda _rank: models[self.names[0]].layout
        return of_numbers.Federation(self.run, models, **self.arguments)


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process = CONTEXT.Process(target=_begin, args=(work, *arguments), daemon=True)
    process.start()
    return process


def _begin(work: Callable[..., None], *arguments: object) -> None:
    os.setpgid(0, 0)
    if os.environ.get("PLAIT_SCOREBOARD_WITHOUT"):
        from scoreboard.mutations import take_out_named

        take_out_named()
    work(*arguments)


def simulate(job: Job, fuse_at: int = 0) -> None:
    """Server and clients in one process, each client's memory on disk."""
    federation = job.federation()
    federation.memories = {name: DiskMemory(job.folder / "clients" / name) for name in job.names}
    federation.channel = federation._connect()
    _run(federation, job, Fuse(fuse_at))


def serve(job: Job, port: int, fuse_at: int = 0) -> None:
    """The server of a federation over gRPC."""
    federation = job.federation()
    channel = NodesChannel(
        f"127.0.0.1:{port}",
        kit=ServerKit.load(job.kits / "server") if job.kits else None,
        # As `plait server` has it.
        limits=Limits(
            max_answer_bytes=1 << 24, grace_s=job.grace_s, max_nodes=2 * len(job.names) + 16, max_unproven=64
        ),
    )
    with channel.begin(Terms(RUN_ID, {}, of_numbers.FINGERPRINT), inbox=job.folder / "inbox"):
        federation.channel = channel
        _run(federation, job, Fuse(fuse_at))


def _run(federation, job: Job, fuse: Fuse) -> None:
    fuse.lay()
    job.folder.mkdir(parents=True, exist_ok=True)

    def watch(where: str) -> None:
        # Where round 2 begins and ends tells which steps are of one round.
        events = [event["event"] for event in read_lines(job.run / "ledger.jsonl") if event.get("round") == 2]
        # In a private run no client evaluates.
        last = "round_finished" if federation.privacy else "evaluated"
        fuse.step("end" if last in events else "begin" if events == ["round_started"] else "")

    state = federation.run(watch=watch)
    if state.adapter.digest() == federation.initial.digest():
        raise RuntimeError("the adapter has not moved: whatever was lost would not be noticed")
    said = {
        "adapter": state.adapter.digest().hex(),
        "shadows": [track.shadow.digest().hex() for track in state.tracks],
        "memory": sorted(
            [key, bytes(np.ascontiguousarray(value).data).hex()]
            for memory in (state.rule_memory, state.optimizer_memory)
            for key, value in (memory or {}).items()
        ),
    }
    temporary = job.folder / "result.tmp"
    temporary.write_text(json.dumps({"said": said, "steps": fuse.steps, "marks": fuse.marks}))
    temporary.rename(job.folder / "result.json")


def attend(job: Job, number: int, port: int, fuse_at: int = 0, counts: bool = False) -> None:
    """The node of a client, until the run is over; killed at a step of its disk, or counting them for a file."""
    fuse = Fuse(fuse_at)
    if fuse_at or counts:
        fuse.lay()
    with suppress(PeerError):  # another node with its kit has taken its place
        _node(job, number, port).run()
    if counts:
        (job.folder / f"steps-{number}").write_text(str(fuse.steps))


def _node(job: Job, number: int, port: int) -> Node:
    name = job.names[number]
    kit = ClientKit.load(job.kits / "clients" / name) if job.kits else None
    settings = NodeSettings(
        server=Address("localhost", port), kit=kit, name=name, data="none", base="", trainer="", device="auto",
        dtype="auto", threads=0, state=job.folder / "state", max_memory_bytes=0,
    )  # fmt: skip
    model = job.model(number)

    def open_runner(run: OfferedRun) -> TaskRunner:
        memory = DiskMemory(memory_folder(settings.state, run.run_id, name))
        way = ClientPipeline(PlainSender(name, kit.node_key.sign if kit else None))
        participant = Participant(name, model, memory, way=way)
        fingerprint = of_numbers.FINGERPRINT
        ready = pb.Ready(base_fingerprint=fingerprint, methods=["lora"], memory_bytes=1 << 30, device="cpu")
        return participant_runner(participant, ready=ready)

    backoff = partial(Backoff, first_s=0.1, most_s=1.0)
    return Node(settings, open_runner, Journal(Style.QUIET, StringIO()), backoff=backoff, progress_s=1.0)


def result(job: Job) -> dict[str, object] | None:
    """What the finished run came to; None while it has not."""
    path = job.folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def events(job: Job, *kinds: str) -> list[Line]:
    """What the ledger has of these kinds by now."""
    path = job.run / "ledger.jsonl"
    if not path.exists():
        return []
    return [event for event in read_lines(path) if event["event"] in kinds]


until = partial(waiting.until, patience_s=PATIENCE_S)
"""Waits for what another process does."""


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill what is left, and wait for it."""
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
