"""Record-level differential privacy of a client: how much noise its own training takes, and what that costs.

Each local step draws a Poisson sample of the client's records, clips the gradient of each, adds Gaussian noise to the
sum and divides by the expected size of the sample (DP-SGD; Abadi et al., arXiv 1607.00133). Two data sets are
neighbours if one record's gradient is replaced by zero in all steps: how many records a client has is not hidden.
Everything computed from the noised gradients (AdamW, moments, error feedback, encoding, the server's rule) costs
nothing. Knows no gradient and no round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigError
from plait.features.privacy.mechanism import ClientPrivacy
from plait.features.privacy.noise import Keystream
from plait.features.privacy.sampled import noise_for, sampled_epsilon


@dataclass(frozen=True)
class RecordPrivacy:
    """The privacy of one client's records in one run.

    Attributes:
        batch: of them that a step is expected to draw, at most all.
        noise: of the sum, over the clip norm.
        epsilon: never exceeded; infinite where only the noise was given.
        clip_norm: that gradients are clipped to; None to scale each to the same norm (Bu et al., arXiv 2206.07136),
            which needs no choice where the optimizer divides by the gradient's size anyway.
    """

    records: int
    batch: int
    noise: float
    delta: float
    epsilon: float
    clip_norm: float | None

    @classmethod
    def of(
        cls,
        *,
        records: int,
        batch: int,
        steps: int,
        delta: float,
        epsilon: float,
        noise: float,
        clip_norm: float | None,
    ) -> Self:
        """The privacy with which all steps of a run just fit an epsilon, or with the given noise.

        Args:
            records: that the client trains on, at least 1.
            epsilon: 0 for none.
            noise: 0 where it follows from `epsilon`.

        Raises:
            ConfigError: delta would allow to show a record in full, or the noise would leave nothing.
        """
        if delta * records >= 1:
            raise ConfigError(
                f"dp-delta is {delta:g} and this client has {records:,} records, expected less than 1 / records = "
                f"{1 / records:g}: with more, showing one record in full would be within the guarantee"
            )
        batch = min(batch, records)
        found = noise or noise_for(epsilon, delta, batch / records, steps)
        return cls(records, batch, found, delta, epsilon or float("inf"), clip_norm)

    @property
    def rate(self) -> float:
        """Probability of a record to be in a step's sample."""
        return self.batch / self.records

    @property
    def mechanism(self) -> ClientPrivacy:
        """The mechanism of a step: that of a private round, with examples in the place of clients."""
        return ClientPrivacy(
            noise_multiplier=self.noise,
            delta=self.delta,
            epsilon=None,
            clients=self.batch,
            clip_norm=1.0 if self.clip_norm is None else self.clip_norm,
            quantile=0.5,
            largest_step=1.0,
        )

    def noise_over_clip(self, size: int) -> float:
        """Expected norm of the noise in a step's mean gradient of `size` numbers, over the clip norm."""
        return self.mechanism.noise_over_clip(size)

    def epsilon_after(self, steps: int) -> float:
        """Epsilon of this many steps."""
        return sampled_epsilon(self.noise, self.rate, steps, self.delta)

    def sample(self, stream: Keystream) -> NDArray[np.int64]:
        """The records of one step: each with probability `rate`, independently, from secret randomness."""
        if self.batch == self.records:
            return np.arange(self.records)
        threshold = np.uint64((self.batch << 64) // self.records)
        return np.flatnonzero(stream.words(self.records) < threshold)


@dataclass(frozen=True)
class Charge:
    """The steps of a client in a round, paid for.

    Attributes:
        privacy: of its records in the run.
        key: 32 bytes, of its batches and noise.
        epsilon: of everything so far, this included.
    """

    privacy: RecordPrivacy
    key: bytes
    epsilon: float
