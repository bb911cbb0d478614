import numpy as np
import pytest

from plait.aggregation.optimizers import OPTIMIZERS, optimizer_for
from plait.aggregation.round import Outcome
from plait.errors import ConfigError

OPTIONS = {"none": "", "line_search": ""}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_in_the_table_takes_a_step_twice_to_the_same_bits(lab, name):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    steps = [lab.state(context.geometry, generator, 0.01) for _ in range(3)]
    results = set()
    for _ in range(2):
        memory = {}
        for step in steps:
            optimizer = optimizer_for(name + OPTIONS.get(name, ":lr=0.5,momentum=0.9"))
            taken, memory = optimizer.adjust(Outcome(step), memory, context)
        results.add(taken.digest())
        assert np.isfinite(taken.flat).all()
    assert len(results) == 1


def test_the_table_is_sorted():
    assert list(OPTIMIZERS) == sorted(OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adamw:lr=1", "server optimizer is 'adamw', expected one of"),
        ("sgd:lr=0", "lr of server optimizer 'sgd' is '0', expected greater than 0"),
        ("sgd:lr=nan", "lr of server optimizer 'sgd' is 'nan', expected a finite number"),
        ("fedadam:nu=0.9", "server optimizer 'fedadam' is given the option 'nu', expected one of"),
        ("sgd:momentum=1", "momentum of server optimizer 'sgd' is '1', expected less than 1"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        optimizer_for(text)
