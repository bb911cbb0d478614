"""What noise under masks rests on: how much of it a sum holds when clients drop out, and that it is never used twice.

Each claim goes through the real coordinator, participants and messages. Knows no attack on masks themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scoreboard.small_federation import FakeModel, Federation, borrowed, of_numbers

from plait.adapters import Layout
from plait.errors import PlaitError
from plait.privacy.mechanism import ClientPrivacy, NoiseShares, multiplier_for
from plait.rounds.channel import Purpose
from plait.rounds.run_directory import RunDirectory
from plait.secagg.rounds import check_grid, privacy_of_clients
from plait.secagg.sums import NOISED, Summed, sum_file

masked = borrowed("plait/secagg/test_masked_rounds.py")
NAMES = masked.NAMES
PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 1, guaranteed=4), delta=1e-5, epsilon=8.0, clients=5, clip_norm=0.5,
    quantile=0.5, largest_step=0.2,
)  # fmt: skip
WIDE = Layout.of({"layer.lora_A.weight": [2, 20_000], "layer.lora_B.weight": [3, 2]})


def claims(scratch: Path) -> Iterator[str]:
    """A complaint for each claim that does not hold; empty for one that does."""
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
