"""What masked sums rest on: a server's attacks, the masks, and the noise under them.

Each attack goes to the clients' own code, and has to be refused: it would end with the numbers of a single client. They
are those of `tests/plait/secagg/test_exchange.py`, with the keys of provisioned kits. Masks are as hard to guess as
their keys are long, and do not cancel for clients who were sent different models. Noise: how much of it a sum holds
when clients drop out, and that it is never used twice, each through the real coordinator, participants and messages.
"""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import cache
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from scoreboard.small_federation import FakeModel, Federation, borrowed, of_numbers, tests_in

from plait.adapters import Layout
from plait.errors import PlaitError
from plait.privacy.mechanism import ClientPrivacy, NoiseShares, multiplier_for
from plait.rounds.channel import Purpose
from plait.rounds.run_directory import RunDirectory
from plait.secagg import client as masking
from plait.secagg.rounds import check_grid, privacy_of_clients
from plait.secagg.server import check_offer
from plait.secagg.sums import NOISED, Summed, sum_file
from plait.trust.keys import NodeIdentity
from plait.trust.kit import ClientKit, Endorsement, is_vouched_for
from plait.trust.provision import provision
from plait.wire.masked_roster import MaskedAttempt, Offer

masked = borrowed("plait/secagg/test_masked_rounds.py")
NAMES = masked.NAMES
PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 1, guaranteed=4), delta=1e-5, epsilon=8.0, clients=5, clip_norm=0.5,
    quantile=0.5, largest_step=0.2,
)  # fmt: skip
WIDE = Layout.of({"layer.lora_A.weight": [2, 20_000], "layer.lora_B.weight": [3, 2]})


def claims(scratch: Path) -> Iterator[str]:
    """A complaint for each claim that does not hold; empty for one that does."""
    yield from _attacks()
    yield from _masks()
    yield from _size(scratch)
    yield from _attempts(scratch)
    yield from _asked()


class _Watched:
    """What every client hid, and what it sent, before any mask."""

    def __init__(self, scratch: Path, *, loses: str = "", **plan: int) -> None:
        self.hidden: list[np.ndarray] = []
        self.sent: list[np.ndarray] = []
        small, of_numbers.layout_of = of_numbers.layout_of, lambda _rank: WIDE
        real, watched = NoiseShares.around, self

        def around(shares: NoiseShares, centres, *, guaranteed: int, key: bytes):
            drawn = real(shares, centres, guaranteed=guaranteed, key=key)
            watched.hidden.append(centres / (1 << shares.fraction_bits))
            watched.sent.append(drawn)
            return drawn

        NoiseShares.around = around
        try:
            models = {
                name: FakeModel(1e7 if name == "alice" else 4.0, 3 + at, layout=WIDE) for at, name in enumerate(NAMES)
            }
            self.federation = Federation(
                scratch, models, wire="fp32", masked=True, privacy=PRIVACY, rounds=1, keep_updates=True, **plan
            )
            failed: set[str] = set()
            channel = self.federation.channel
            if loses == "train":
                channel.silent = lambda asked: asked.client == "carol" and asked.purpose is Purpose.TRAIN
            elif loses:
                channel.tamper = lambda asked, reply: (
                    reply[:-1]
                    if masked.stage_of(asked) == loses
                    and asked.client in NAMES[2:]
                    and (asked.client not in failed and not failed.add(asked.client))
                    else reply
                )
            self.federation.run()
            self.shares = self.federation.privacy.shares(self.sum.numbers.size)
        finally:
            of_numbers.layout_of, NoiseShares.around = small, real

    @property
    def sum(self) -> Summed:
        stored = RunDirectory.find(self.federation.path).load_update(1, sum_file("train"))
        return Summed.from_bytes(stored)


def _size(scratch: Path) -> Iterator[str]:
    """As few clients as may be are left: the sum has the promised noise around what they hid, which is clipped."""
    run = _Watched(scratch / "shares-size", loses="train")
    noise = run.sum.numbers - sum(run.hidden)
    promised = math.sqrt(run.shares.variance)
    off = float(noise.std()) / promised - 1
    yield "" if len(run.hidden) == 4 else f"{len(run.hidden)} clients sent numbers, expected 4"
    yield "" if abs(off) < 5 / math.sqrt(2 * noise.size) else f"noise of {noise.std():.4g}, {promised:.4g} promised"
    longest = max(float(np.linalg.norm(each)) for each in run.hidden)
    most = run.shares.sensitivity
    yield "" if longest <= most else f"a client moves the sum by {longest:.4g}, expected at most {most:.4g}"
    figures = run.sum.figures
    yield "" if len(figures) == len(NOISED) and figures[0] == 0 else f"the server learns {len(figures)} figures"


def _attempts(scratch: Path) -> Iterator[str]:
    """A round is begun again: the same updates, independent noise, one charge."""
    run = _Watched(scratch / "shares-attempts", loses="signatures", attempts=2)
    yield "" if len(run.sent) == 10 else f"{len(run.sent)} answers, expected two of each client"
    first, second = (
        [sent - hidden for sent, hidden in zip(run.sent[at : at + 5], run.hidden[at : at + 5], strict=True)]
        for at in (0, 5)
    )
    alike = max(abs(float(np.corrcoef(one, other)[0, 1])) for one, other in zip(first, second, strict=False))
    yield "" if alike < 0.1 else f"noise of two attempts correlates by {alike:.2f}, expected 0"
    charges = len(run.federation.of_kind("noise_intended"))
    yield "" if charges == 1 else f"{charges} charges, expected 1"


def _asked() -> Iterator[str]:
    """A server asks for a grid with less noise, for another clip norm, or for smaller shares."""
    settings = of_numbers.Settings(
        local_steps=1, batch_size=1, gradient_accumulation_steps=1, seq_len=8, learning_rate=0.1, weight_decay=0.0,
        max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=1, secure_aggregation=True,
        client_noise=PRIVACY.noise_multiplier, client_clip=0.5, client_cohort=5,
    )  # fmt: skip
    privacy = privacy_of_clients(settings)
    shares = privacy.shares(4096)
    bits, unit = shares.bits(5, 4096), 0.5 / shares.sensitivity
    right = {"bits": bits, "unit": unit, "clients": 5}
    for what, wrong in (
        ("a ring of fewer bits", {"bits": bits - 1}),
        ("ten times the clip norm", {"unit": 10 * unit}),
        ("a larger roster, whose shares are smaller", {"clients": 6}),
    ):
        try:
            check_grid(privacy, 4096, **(right | wrong))
        except PlaitError:
            yield ""
        else:
            yield f"a client goes along with {what}"


exchange = borrowed("plait/secagg/test_exchange.py")
SESSION = exchange.SESSION
sealed_of = exchange.sealed_of
CLIENTS = 5
LEAST_MASKS = 64


class Provisioned(exchange.Federation):
    """Clients with the keys of provisioned kits, who know each other by the authority's certificate alone."""

    def __init__(self, count: int, **more: int) -> None:
        super().__init__(count, **more)
        self.kits = _kits(tuple(self.names))
        self.keys = {name: kit.node_key for name, kit in self.kits.items()}
        self.authority = self.kits[self.names[0]].tls.authority

    def vouch(self, client: str, *proof: bytes) -> bool:
        return self._is_made_up(client) or is_vouched_for(self.authority, client, *proof)

    def offer(self, name: str, session: MaskedAttempt = SESSION) -> Offer:
        if self._is_made_up(name):
            return super().offer(name, session)
        key, own = self.keys[name], Endorsement.of(self.kits[name])
        identity = NodeIdentity(key.public_bytes, key.sign, self.vouch, own.certificate, own.signature)
        self.clients[name], offer = self.clients[name].offer(session, identity)
        check_offer(offer, name, session, self.vouch)
        return offer

    def _is_made_up(self, name: str) -> bool:
        """Whether it is a client of whom the server has made the key."""
        return name in self.keys and name not in self.kits


@cache
def _kits(names: tuple[str, ...]) -> dict[str, ClientKit]:
    kept = Path(tempfile.mkdtemp(prefix="plait-kits-"))
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    provision(kept, names, ["localhost"], now=datetime.now(UTC))
    return {name: ClientKit.load(kept / "clients" / name) for name in names}


def _attacks() -> Iterator[str]:
    """A complaint for each attack that a client went along with; empty for one that it refused."""
    exchange.Federation = Provisioned
    wrong: dict[str, str] = {}
    for name, test, parameters in tests_in(vars(exchange.TestMaliciousServer)):
        attack = name.partition(" ")[0]
        wrong.setdefault(attack, "")
        try:
            test(None, **_given(signature(test).parameters, parameters))
        # What `pytest.raises` says is no Exception.
        except (Exception, pytest.fail.Exception) as error:
            wrong[attack] = f"{name}: {type(error).__name__} {error}"
    yield from wrong.values()


def _given(names: Collection[str], case: dict[str, object]) -> dict[str, object]:
    """What the fixtures of a test give."""
    federation = Provisioned(CLIENTS)
    given: dict[str, object] = {"federation": federation, **case}
    if "sealed" in names:
        return given | {"sealed": sealed_of(federation)}
    if set(names) & {"roster", "shared", "collecting"}:
        roster = federation.roster(federation.names)
        made = {"roster": lambda: roster, "shared": lambda: federation.undelivered(roster, federation.names),
                "collecting": lambda: federation.share(roster, federation.names)}  # fmt: skip
        given |= {name: make() for name, make in made.items() if name in names}
    return {name: given[name] for name in names if name != "self"}


def _masks() -> Iterator[str]:
    """What the masks are made of."""
    made: list[bytes] = []
    add_masks = masking.add_masks
    masking.add_masks = lambda values, figures, masks, ring: (
        made.extend(mask.key for mask in masks), add_masks(values, figures, masks, ring),
    )  # fmt: skip
    try:
        while len(set(made)) < LEAST_MASKS and len(made) < 4 * LEAST_MASKS:
            sealed_of(Provisioned(CLIENTS, size=16))
    finally:
        masking.add_masks = add_masks
    keys = np.frombuffer(b"".join(sorted(set(made))[:LEAST_MASKS]), np.uint8).reshape(-1, 32)
    narrow = [at for at in range(32) if len(np.unique(keys[:, at])) < LEAST_MASKS // 4]
    yield "" if not narrow else f"{len(narrow)} of 32 bytes of {len(keys)} mask keys hardly differ"
    federation = Provisioned(CLIENTS)
    try:
        exchange.test_masks_of_clients_that_were_sent_another_model_do_not_cancel(
            federation, federation.share(federation.roster(federation.names), federation.names)
        )
    except AssertionError:
        yield "the sum of clients that were sent two models is unmasked"
    else:
        yield ""
