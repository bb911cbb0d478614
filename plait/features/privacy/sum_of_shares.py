"""What a sum of shares of noise costs: that of a Gaussian mechanism, and a term for not being one.

Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation",
arXiv 2102.06387. Each of m clients has k_i ~ N_Z(x_i, V / m) in every number, |x_i| <= radius.

*Not being one.* A sum of discrete Gaussians is not one. Let phi_V be the density of N(0, V), X the sum of m of
the x_i, and e(v) = 2 exp(-2 pi^2 v) + ..., by which sum_l phi_v(l + c) differs from 1 (Poisson's summation). As the
product of two Gaussian densities is one, adding a client at a time gives

    P(k_1 + ... + k_m = k) = phi_V(k - X) (1 +- tau),    tau <= 10 sum_{j < m} exp(-2 pi^2 (V / m) j / (j + 1)),

which is the paper's theorem on the divergence of the sum (there for x_i = 0; the proof does not need whole numbers).
By the same argument phi_V(k - X) is within 1 +- e(s) of drawing N(X, V - s) and then N_Z around the result. So in every
number the release is within a factor exp(+-eta), eta = tau + e(s), of something computed from an exact Gaussian
mechanism with noise z = sqrt(V - s) / radius, whose epsilon is known in closed form. Over d numbers and T rounds,

    (epsilon, delta) of that mechanism  becomes  (epsilon + 2 T d eta, exp(T d eta) delta)

With s = 2.5 and V / m >= 5, d eta is below 2e-11 for any adapter, and it is charged. Noise of clients beyond m only
adds to it. Of clients that tell the server their noise, or add none, the shares are missing (`multiplier_without`).
Knows no client and no random number.
"""

from __future__ import annotations

import math

from plait.features.privacy.accountant import epsilon_at

SMOOTHING = 2.5
"""s: the part of the variance that is not counted."""
_LEAST_SHARE = 5.0
_LEAST_SUM = 256.0
_MOST_NUMBERS = 1 << 32


def least_variance(guaranteed: int) -> float:
    """The least V of so many shares."""
    return max(_LEAST_SHARE * guaranteed, _LEAST_SUM)


def sum_term(guaranteed: int) -> float:
    """The d eta of a round: how far any sum of shares is from a Gaussian mechanism, as a logarithm."""
    tau = 10 * sum(math.exp(-2 * math.pi**2 * _LEAST_SHARE * j / (j + 1)) for j in range(1, guaranteed))
    return _MOST_NUMBERS * (tau + 2.001 * math.exp(-2 * math.pi**2 * SMOOTHING))


def multiplier_without(noise_multiplier: float, guaranteed: int, colluding: int) -> float:
    """The noise multiplier that is left where the noise of some clients is known, or was never added."""
    least = least_variance(guaranteed)
    left = least * max(0, guaranteed - colluding) / guaranteed - SMOOTHING
    return noise_multiplier * math.sqrt(max(left, 0.0) / (least - SMOOTHING))


def epsilon_of(
    delta: float, charges: int, noise_multiplier: float, *, guaranteed: int = 0, colluding: int = 0
) -> float:
    """Epsilon of so many rounds with this noise multiplier; 0 guaranteed clients where the server adds it."""
    if not guaranteed:
        return epsilon_at(delta, math.sqrt(charges) / noise_multiplier)
    multiplier = multiplier_without(noise_multiplier, guaranteed, colluding)
    if not multiplier:
        return math.inf
    apart = charges * sum_term(guaranteed)
    return epsilon_at(delta * math.exp(-apart), math.sqrt(charges) / multiplier) + 2 * apart
