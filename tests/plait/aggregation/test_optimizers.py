import numpy as np
import pytest

from plait.aggregation.optimizers import OPTIMIZERS, optimizer_for
from plait.aggregation.round import Outcome
from plait.errors import ConfigError


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_in_the_table_takes_a_step_twice_to_the_same_bits(lab, name):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    steps = [lab.state(context.geometry, generator, 0.01) for _ in range(3)]
    results = set()
    for _ in range(2):
        memory = {}
        for step in steps:
            momentum = 0.0 if name in ("none", "fedexp", "feddyn", "line_search") else 0.9
            optimizer = optimizer_for(name, learning_rate=0.5, momentum=momentum)
            taken, memory = optimizer.adjust(Outcome(step), memory, context)
        results.add(taken.digest())
        assert np.isfinite(taken.flat).all()
    assert len(results) == 1


def test_the_table_is_sorted():
    assert list(OPTIMIZERS) == sorted(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "rate", "momentum", "message"),
    [
        ("adamw", 1.0, 0.9, "server optimizer is 'adamw', expected one of"),
        ("sgd", 0.0, 0.9, "server learning rate is 0, expected a positive number"),
        ("sgd", float("nan"), 0.9, "server learning rate is nan"),
        ("fedexp", 1.0, 0.9, "server momentum is 0.9 with server optimizer 'fedexp', expected 0"),
        ("sgd", 1.0, 1.0, "server momentum is 1, expected at least 0 and less than 1"),
    ],
)
def test_what_cannot_be_is_refused(name, rate, momentum, message):
    with pytest.raises(ConfigError, match=message):
        optimizer_for(name, learning_rate=rate, momentum=momentum)
