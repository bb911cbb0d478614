"""Fixtures and hooks for all tests."""

import gc
import importlib.util
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# As the command line has it; numpy reads it when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests run side by side, so more threads of each would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RUNNING = {"browser", "finished", "original", "outcomes", "started", "watch"}
"""Fixtures that run `plait` as a whole, a browser, or the client in JavaScript, most in processes of their own."""

EXTRAS = {"flower-simulation": "ray", "metrics": "sklearn", "qlora": "bitsandbytes"}
"""What each extra installs that a test looks for."""

# A busy machine takes its time over an example, which says nothing of the code.
settings.register_profile("plait", deadline=None)
settings.load_profile("plait")

# Of libraries and tests nothing is garbage as they are loaded; looking for it takes a sixth of the time. See `_loaded`.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests come first, so that no worker begins with one when the others have nothing left.

    Whatever needs a whole run is slow.
    """
    for item in items:
        if not RUNNING.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs an extra is skipped without it, and says which."""
    for mark in item.iter_markers("extra"):
        (name,) = mark.args
        if importlib.util.find_spec(EXTRAS[name]) is None:
            pytest.skip(f"needs the extra '{name}': pip install -e '.[{name}]'")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What the command line sets for the processes that it starts is not left to the tests that follow."""
    before = set(os.environ)
    yield
    for name in os.environ.keys() - before:
        del os.environ[name]


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """What a test draws is the same in each run, whatever ran before it."""
    import torch  # not in the process that hands out tests

    random.seed(0)
    # `torch.manual_seed` keeps a stack for each kind of device that this machine lacks.
    torch.default_generator.manual_seed(0)


@pytest.fixture
def nothing_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose operator has named no part of the user's own; modules of the test's folder leave with it."""
    from plait import plugin_search, plugins

    monkeypatch.setattr(sys, "path", list(sys.path))
    kept = [plugins.GIVEN, plugins._found, plugins.ADMITTED, plugin_search._appended]
    before = [each.copy() for each in kept]
    for each in kept:
        each.clear()
    yield
    for each, its in zip(kept, before, strict=True):
        each.clear()
        each.update(its)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged in a test, from INFO on. pytest's own `caplog` is off: it would cost every test a millisecond."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    loggers, level = (logging.root, logging.getLogger("flwr")), logging.root.level
    logging.root.setLevel(logging.INFO)
    # A server that a test before has run in this process keeps its lines to itself.
    logging.getLogger("plait.server").propagate = True
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)
    logging.root.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> Iterator[None]:
    """The collector passes over what is loaded by now: all libraries and tests, which take it up to a second each time.

    flwr's strategies collect several times in each round. What a module leaves open is an error of its own last test,
    and not of the first one of the module after it.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _plots() -> Iterator[None]:
    """Reports take no time for images; a folder or module that looks at them overrides this."""
    from tests.unrendered import plots_unrendered

    with plots_unrendered():
        yield
