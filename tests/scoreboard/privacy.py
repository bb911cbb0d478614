"""What differential privacy of clients rests on, each through the real coordinator, participants and messages.

A client changes a round by at most the clip norm, whatever it hides; the noise has the promised size, is never used for
other updates, and is paid for; no client decides whether another counts; a killed server draws nothing twice. Clients
rest where they have to, and all that one can do is paid for.
Also what masked sums rest on (`masks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from scoreboard import masks
from scoreboard.killed import POINTS, Way, kills
from scoreboard.processes import Job, events
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, Federation, of_numbers

from plait.adapters import Layout, subtract
from plait.cli.privacy import check_privacy
from plait.config import config_from_table
from plait.ledger.ledger import read_events
from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.privacy.noise import RunKey
from plait.privacy.rounds import PrivateRounds
from plait.privacy.run import with_private
from plait.rounds.coordinator import Way as CoordinatorWay
from plait.rounds.memory import ClientState, recall_state
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState, initial_state
from plait.settle import settle

ROUNDS = 3
PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, ROUNDS), delta=1e-5, epsilon=8.0, clients=2, clip_norm=0.5, quantile=0.5,
    largest_step=0.2,
)  # fmt: skip
KEY = "5e" * 32
WAYS: dict[str, dict[str, object]] = {
    "fixed clip": {"wire": "bf16", "privacy": PRIVACY},
    "adaptive clip, one bit": {"wire": "1", "privacy": replace(PRIVACY, clip_norm=None)},
}
RUN_ID = b"r" * 16


def run(*, full: bool, scratch: Path) -> Row:
    claims = [
        _hidden_state(scratch),
        _size(scratch),
        _reuse(scratch),
        _who_counts(scratch),
        _stopped(scratch),
        masks.claims(scratch),
        _kills(scratch, full=full),
    ]
    found = [complaint for claim in claims for complaint in claim]
    kills = 2 * (POINTS if full else 4)
    return Row.of("privacy of clients", found, least=2 * POINTS + 36 if full else 44, kills=kills)


def _hidden_state(scratch: Path) -> Iterator[str]:
    """Each round with a hostile client's update and without it, over the same noise."""
    models = {"alice": FakeModel(1, 3), "bob": FakeModel(4, 7), "mallory": FakeModel(1e7, 5)}
    privacy = replace(PRIVACY, clients=3)
    for wire in ("fp32", "1"):
        federation = Federation(
            scratch / f"hidden-{wire}", models, wire=wire, privacy=privacy, keep_updates=True, rounds=ROUNDS
        )
        federation.channel.before = lambda asked, memory=federation.memories["mallory"]: _poison(asked, memory)
        real, RunKey.for_round = RunKey.for_round, lambda self, number, digest: bytes([number]) * 32
        try:
            federation.run()
            state = initial_state(RUN_ID, federation.ranks)
            for number in range(1, ROUNDS + 1):
                aggregator, stored = _stored(federation, state, number)
                with_it, _ = aggregator.step(state, stored)
                others = {name: each for name, each in stored.items() if name != "mallory"}
                without, _ = aggregator.step(state, others)
                apart = float(np.linalg.norm(subtract(with_it.adapter, without.adapter).flat.astype(np.float64)))
                most = 0.5 / 3 * (1 + 1e-4)
                yield "" if apart <= most else f"a client changes round {number} by {apart:.3g}, expected {most:.3g}"
                state = with_it
        finally:
            RunKey.for_round = real


def _poison(asked, memory) -> None:
    if asked.client == "mallory" and "residual" in memory:
        kept = recall_state(memory, "residual", RUN_ID).after
        worse = {name: array * np.float32(1e6) + np.float32(1e9) for name, array in kept.arrays.items()}
        memory.save("residual", ClientState(RUN_ID, after=replace(kept, arrays=worse)).to_bytes())


def _stored(federation, state: RunState, number: int):
    directory = RunDirectory.find(federation.path)
    key = RunKey.load(directory.noise_key)
    privacy = replace(federation.privacy, epsilon=None)
    private = PrivateRounds(privacy, key, intents=[], record=lambda event: None)
    aggregator = federation.aggregator(with_private(CoordinatorWay(), private))
    names = sorted(federation.models)
    return aggregator, {
        name: aggregator.spool.open(state, number, name, directory.load_update(number, name))[1] for name in names
    }


def _wide(scratch: Path, name: str, target: float):
    """One round of a wide adapter: the federation, and what its noise was."""
    layout = Layout.of({"layer.lora_A.weight": [2, 20_000], "layer.lora_B.weight": [3, 2]})
    small, of_numbers.layout_of = of_numbers.layout_of, lambda _rank: layout
    try:
        models = {"alice": FakeModel(1, 3, layout=layout), "bob": FakeModel(target, 7, layout=layout)}
        federation = Federation(scratch / name, models, wire="fp32", privacy=PRIVACY, keep_updates=True, rounds=1)
        federation.path.mkdir(parents=True)
        _give_key(federation.path)
        released = subtract(federation.run().adapter, federation.initial).flat.astype(np.float64)
        state = initial_state(RUN_ID, federation.ranks)
        aggregator, _ = _stored(federation, state, 1)
        for client in federation.models:
            update = RunDirectory.find(federation.path).load_update(1, client)
            delta = aggregator.spool.open(state, 1, client, update)[0].delta.flat.astype(np.float64)
            released -= delta * min(1.0, 0.5 / float(np.linalg.norm(delta))) / PRIVACY.clients
    finally:
        of_numbers.layout_of = small
    return released


def _size(scratch: Path) -> Iterator[str]:
    """The noise of a whole round, from what the round released."""
    noise = _wide(scratch, "size", 4.0)
    expected = PRIVACY.update_multiplier * 0.5 / PRIVACY.clients
    off = abs(float(noise.std()) / expected - 1)
    yield "" if off < 5 / math.sqrt(2 * noise.size) else f"noise of {noise.std():.4g} a number, expected {expected:.4g}"


def _reuse(scratch: Path) -> Iterator[str]:
    """The same key, round and seed, other updates: independent noise."""
    one, other = (_wide(scratch, f"reuse-{target}", target) for target in (4.0, -4.0))
    alike = float(np.corrcoef(one, other)[0, 1])
    yield "" if abs(alike) < 0.1 else f"noise of other updates correlates by {alike:.2f}, expected 0"


def _who_counts(scratch: Path) -> Iterator[str]:
    """An update far longer than the others is clipped, not refused: refusing would depend on the others."""
    settled = settle(config_from_table({"dp": "client", "dp-epsilon": 8.0, "clients": 4}))
    models = {name: FakeModel(1.0 + number / 10, 3) for number, name in enumerate(("a", "b", "c"))}
    federation = Federation(
        scratch / "counts", {**models, "far": FakeModel(1e5, 3)}, wire="fp32", rounds=1,
        privacy=replace(PRIVACY, clients=4), norm_bound=settled.plan.norm_bound,
    )  # fmt: skip
    federation.run()
    refused = [(event["client"], event["reason"]) for event in federation.of_kind("update_refused")]
    yield "" if not refused else f"{refused} did not count, which depends on the others' updates"


def _stopped(scratch: Path) -> Iterator[str]:
    """Once undisturbed and once stopped in round 3, with the same key."""
    models = {name: FakeModel(number, 3) for number, name in enumerate(("a", "b", "c", "d"))}
    adapters: list[str] = []
    for name in ("whole", "stopped"):
        federation = Federation(scratch / name, models, wire="fp32", privacy=PRIVACY, cohort_size=2)
        _give_key(federation.path)
        if name == "stopped":
            federation.channel.before = _stopper()
            with suppress(_Stopped):
                federation.run()
        adapters.append(federation.run().adapter.digest().hex())
    yield "" if adapters[0] == adapters[1] else "a run that was stopped went on with other noise"


class _Stopped(Exception):
    """The server ends here."""


def _stopper():
    def before(asked) -> None:
        nonlocal waits
        if asked.round == 3 and waits:
            waits = False
            raise _Stopped

    waits = True
    return before


def _kills(scratch: Path, *, full: bool) -> Iterator[str]:
    for name, arguments in WAYS.items():
        job = Job(
            scratch / f"kills-{len(name)}", {"rounds": ROUNDS, **arguments}, ("alice", "bob"),
            wide=600 if "bit" in name else 0,
        )  # fmt: skip
        points = POINTS if full else 4
        for again, wrong in kills(job, Way(arguments), points, [], prepare=lambda each: _give_key(each.run)):
            intended = [event["round"] for event in events(again, "noise_intended")]
            charges = check_privacy(read_events(again.run / "ledger.jsonl")).charges
            if not wrong and (intended != [1, 2, 3] or charges != ROUNDS):
                wrong = f"noise was drawn for rounds {intended}, {charges} charges"
            yield f"{name}, {wrong}" if wrong else ""


def _give_key(run: Path) -> None:
    """The same noise key for every run that is compared."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "noise.key"
    path.write_text(KEY)
    path.chmod(0o600)
