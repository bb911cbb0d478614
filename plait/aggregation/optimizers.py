"""The server optimizers by name, and how a user's settings reach them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from plait.aggregation.fedexp import FedExp
from plait.aggregation.product_optimizer import ProductSpace
from plait.aggregation.server_optimizer import Adaptive, Plain, ServerOptimizer, Sgd
from plait.errors import ConfigError, did_you_mean

# From (learning rate, momentum) to the optimizer.
OPTIMIZERS: Mapping[str, Callable[[float, float], ServerOptimizer]] = {
    "fedadagrad": lambda rate, beta: Adaptive("fedadagrad", learning_rate=rate, beta1=beta),
    "fedadam": lambda rate, beta: Adaptive("fedadam", learning_rate=rate, beta1=beta),
    "fedexp": lambda rate, _beta: FedExp(learning_rate=rate),
    "fedyogi": lambda rate, beta: Adaptive("fedyogi", learning_rate=rate, beta1=beta),
    "nesterov": lambda rate, beta: Sgd(learning_rate=rate, momentum=beta, nesterov=True),
    "none": lambda _rate, _beta: Plain(),
    "product_adam": lambda rate, beta: ProductSpace("product_adam", learning_rate=rate, momentum=beta, adaptive=True),
    "product_nesterov": lambda rate, beta: ProductSpace(
        "product_nesterov", learning_rate=rate, momentum=beta, nesterov=True
    ),
    "product_sgd": lambda rate, beta: ProductSpace("product_sgd", learning_rate=rate, momentum=beta),
    "sgd": lambda rate, beta: Sgd(learning_rate=rate, momentum=beta),
}


# These have no momentum.
_WITHOUT_MOMENTUM = frozenset({"fedexp", "none"})


def optimizer_for(name: str, *, learning_rate: float, momentum: float) -> ServerOptimizer:
    """The optimizer of a user's choice.

    Args:
        name: one of `OPTIMIZERS`; a user may also leave it to plait, by `auto`, which is none of them.
        learning_rate: positive.
        momentum: from 0 to less than 1; beta1 of the adaptive ones.

    Raises:
        ConfigError: there is no such optimizer, or a number is out of range.
    """
    if name not in OPTIMIZERS:
        known = ("auto", *OPTIMIZERS)
        hint = did_you_mean(name, known)
        raise ConfigError(f"server optimizer is '{name}', expected one of {', '.join(known)}{hint}")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ConfigError(f"server learning rate is {learning_rate:g}, expected a positive number")
    if not 0 <= momentum < 1:
        raise ConfigError(f"server momentum is {momentum:g}, expected at least 0 and less than 1")
    if momentum and name in _WITHOUT_MOMENTUM:
        raise ConfigError(f"server momentum is {momentum:g} with server optimizer '{name}', expected 0: it has none")
    return OPTIMIZERS[name](learning_rate, momentum)
