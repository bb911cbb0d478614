"""Values of Google's dp-accounting for Gaussian mechanisms, without sampling and on Poisson samples, as JSON.

dp-accounting pins attrs below 24, so it cannot be installed beside plait's own packages. In an environment of its own:

    python3.11 -m venv oracle && oracle/bin/pip install dp-accounting==0.6.0
    oracle/bin/python tests/plait/privacy/make_oracle.py > tests/plait/privacy/oracle.json
    oracle/bin/python tests/plait/privacy/make_oracle.py sampled > tests/plait/privacy/oracle_sampled.json
"""

import itertools
import json
import math
import sys

from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant


def whole() -> list[dict[str, float]]:
    found = []
    for multiplier, rounds, delta in itertools.product((0.5, 1.0, 2.0, 6.0), (1, 5, 100), (1e-3, 1e-5, 1e-8)):
        if math.sqrt(rounds) / multiplier > 12:
            continue
        accountant = PLDAccountant(value_discretization_interval=1e-4 * max(1, rounds / multiplier / 10))
        accountant.compose(SelfComposedDpEvent(GaussianDpEvent(multiplier), rounds))
        epsilon = accountant.get_epsilon(delta)
        found.append({"multiplier": multiplier, "rounds": rounds, "delta": delta, "epsilon": epsilon})
    return found


def sampled() -> list[dict[str, float]]:
    found = []
    cases = itertools.product((0.6, 1.0, 2.0, 6.0), (0.001, 0.01, 0.064, 0.4), (1, 50, 2000), (1e-5, 1e-8))
    for noise, rate, steps, delta in cases:
        # Its own error is up to a cell.
        spread = math.sqrt(steps) * rate * math.sqrt(math.expm1(min(noise**-2, 12)))
        accountant = PLDAccountant(value_discretization_interval=min(1e-4, max(1e-7, spread / 500)))
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps))
        epsilon = accountant.get_epsilon(delta)
        if 1e-3 < epsilon < 60:
            found.append({"noise": noise, "rate": rate, "steps": steps, "delta": delta, "epsilon": epsilon})
    return found[::3]


print(json.dumps(sampled() if sys.argv[1:] == ["sampled"] else whole(), indent=1))
