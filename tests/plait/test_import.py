import subprocess
import sys

import pytest

import plait
from plait.wire.codecs.compiled import library

HEAVY = (
    *("torch", "transformers", "peft", "pandas", "flwr", "numpy", "datasets", "matplotlib"),
    *("rich", "typer", "grpc", "cryptography", "asyncio", "ssl", "http"),
)


@pytest.mark.slow
def test_importing_plait_brings_no_large_library_along_and_starts_nothing():
    code = (
        "import os, sys, threading; before = dict(os.environ); import plait; plait.EarlyStopping, plait.PlaitError; "
        f"print([name for name in {HEAVY} if name in sys.modules], os.environ == before, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True 1"


def test_every_public_name_is_there_and_listed_in_order():
    assert plait.__all__ == sorted(plait.__all__)
    here = {*plait._HOMES, "__version__"}
    assert here == {*plait.__all__}
    for name in here:
        assert getattr(plait, name) is not None
    assert set(plait.__all__) <= set(dir(plait))


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(plait, "simulat")


@pytest.mark.slow
def test_no_function_brings_a_library_of_training_along_before_it_is_called():
    code = "import sys, plait; [getattr(plait, name) for name in plait.__all__]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "pandas", "flwr", "datasets", "matplotlib"} & {*done.stdout.split()}


NOT_NEEDED = (
    "flwr",
    *(
        "plait.ledger.redaction",
        "plait.trust",
        "cryptography",
        "plait.secagg",
        "plait.privacy",
        "plait.evidence",
        "plait.page",
        "plait.studies",
        "plait.attacks",
    ),
    *(
        "plait.rounds.buffer",
        "plait.rounds.fleet",
        "plait.rounds.metrics",
        "plait.simulation.workers",
        "plait.simulation.virtual_clock",
    ),
    *(
        "plait.objectives.formula",
        "plait.training.preferences",
        "plait.training.completions",
        "plait.training.conversations",
        "plait.training.generate",
    ),
    *("plait.training.model_losses", "plait.training.qlora"),
    *("plait.aggregation.factors", "plait.aggregation.fedopt", "plait.aggregation.slice_means"),
    *("plait.aggregation.bottleneck_diagnostics", "plait.wire.codecs.plain", "plait.wire.codecs.uncompiled"),
    *("plait.adapters.known_methods", "plait.adapters.bottleneck", "plait.adapters.peft_reading"),
    "plait.transport",
    *("plait.plugin_search", "plait.starting", "plait.api.export", "plait.exporting.source", "plait.exporting.outlets"),
    *("plait.data.hub", "plait.data.packages", "plait.data.bounds", "plait.training.base_cache"),
)


# Where nothing compiles, a run loads what computes the same in numpy and torch.
compiles = pytest.mark.skipif(library() is None, reason="no C++ compiler here")


@compiles
@pytest.mark.slow
def test_the_plainest_run_imports_nothing_that_it_does_not_use(tmp_path):
    code = (
        "import sys, plait; "
        "plait.simulate(base='tiny', clients=2, rounds=1, out=sys.argv[1], quiet=True); "
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not [name for name in run.stdout.split() if name.startswith(NOT_NEEDED)]


MOST_LINES = 27_250
"""Of plait that a plain run brings along, its report and samples included."""


@compiles
@pytest.mark.slow
def test_a_plain_run_with_report_and_samples_imports_a_part_of_plait(tmp_path):
    code = """
import atexit, sys
from pathlib import Path
from plait.cli.main import main

@atexit.register
def count():
    modules = [each for name, each in sys.modules.items() if name.partition(".")[0] in ("plait", "server", "client")]
    files = {each.__file__ for each in modules if each.__file__}
    print("lines", sum(len(Path(file).read_text().splitlines()) for file in files))

sys.argv[1:] = ["simulate", "--base", "tiny", "--clients", "2", "--rounds", "1", "--out", sys.argv[1]]
main()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert {"report.html", "samples.json"} <= {file.name for file in (tmp_path / "run").iterdir()}
    assert int(run.stdout.rpartition("lines ")[2]) <= MOST_LINES
