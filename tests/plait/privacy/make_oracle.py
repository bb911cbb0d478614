"""Values of Google's dp-accounting for Gaussian mechanisms without sampling, as JSON.

dp-accounting pins attrs below 24, so it cannot be installed beside plait's own packages. In an environment of its own:

    python3.11 -m venv oracle && oracle/bin/pip install dp-accounting==0.6.0
    oracle/bin/python tests/plait/privacy/make_oracle.py > tests/plait/privacy/oracle.json
"""

import itertools
import json
import math

from dp_accounting.dp_event import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

found = []
for multiplier, rounds, delta in itertools.product((0.5, 1.0, 2.0, 6.0), (1, 5, 100), (1e-3, 1e-5, 1e-8)):
    if math.sqrt(rounds) / multiplier > 12:
        continue
    accountant = PLDAccountant(value_discretization_interval=1e-4 * max(1, rounds / multiplier / 10))
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(multiplier), rounds))
    found.append({"multiplier": multiplier, "rounds": rounds, "delta": delta, "epsilon": accountant.get_epsilon(delta)})
print(json.dumps(found, indent=1))
