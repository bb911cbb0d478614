import io
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from plait.config import RunConfig
from plait.settings.table import toml_value

CHECKOUT = Path(__file__).resolve().parents[2]
APP = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["flwr"]


@pytest.fixture(scope="module")
def bundle() -> zipfile.ZipFile:
    # A process of its own: importing flwr's command line warns of what it does itself.
    program = """
import sys
from pathlib import Path
from flwr.cli.build import build_fab_from_disk
sys.stdout.buffer.write(build_fab_from_disk(Path(sys.argv[1])))
"""
    built = subprocess.run([sys.executable, "-c", program, CHECKOUT], capture_output=True, check=True)
    return zipfile.ZipFile(io.BytesIO(built.stdout))


def test_a_run_can_override_every_setting_and_the_defaults_are_plaits_own():
    # flwr takes no key in --run-config that this table lacks, and reads nothing but pyproject.toml.
    defaults = {name.replace("_", "-"): field.default for name, field in RunConfig.model_fields.items()}
    ours = {key: toml_value(value) for key, value in defaults.items()}
    theirs = APP["app"]["config"]
    wrong = [f"add `{key} = {value}`" for key, value in ours.items() if key not in theirs]
    wrong += [f"remove `{key}`" for key in theirs if key not in ours]
    wrong += [
        f"`{key}` is {theirs[key]!r}, expected {ours[key]}"
        for key, value in defaults.items()
        if key in theirs and theirs[key] != value
    ]
    assert not wrong, "in [tool.flwr.app.config] of pyproject.toml: " + "; ".join(wrong)


def test_nothing_in_pyproject_makes_flwr_rewrite_it():
    assert set(APP) == {"app"}


@pytest.mark.slow
def test_the_bundle_holds_every_module_and_the_kernels_and_is_well_below_flowers_limit(bundle):
    modules = {
        path.relative_to(CHECKOUT).as_posix()
        for folder in ("plait", "server", "client")
        for path in (CHECKOUT / folder).rglob("*.py")
    }
    assert modules == {name for name in bundle.namelist() if name.endswith(".py")}
    assert {"plait/training/fused/cpp.json", "plait/wire/codecs/cpp.json"} <= {*bundle.namelist()}
    assert sum(entry.file_size for entry in bundle.infolist()) < 7 << 20


@pytest.mark.flower
@pytest.mark.slow
def test_the_bundle_alone_has_all_that_the_apps_and_the_built_in_base_need(bundle, tmp_path):
    app = tmp_path / "app"
    bundle.extractall(app)
    # Flower puts the bundle's folder first on the path; what was imported from elsewhere under our names was missing.
    program = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
import client.app, server.app
from plait.training.bases import locate_config
from plait.training.bases import locate_base
assert locate_config("llama-3.1-8b").is_relative_to(folder)
print(locate_base("tiny").reference.fingerprint)
ours = {name: Path(module.__file__) for name, module in sys.modules.items()
        if name.partition(".")[0] in ("plait", "server", "client") and getattr(module, "__file__", None)}
assert len(ours) > 50
assert all(path.is_relative_to(folder) for path in ours.values()), ours
"""
    checkout = "from plait.training.bases import locate_base; print(locate_base('tiny').reference.fingerprint)"
    alone, here = (
        subprocess.run([sys.executable, "-c", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        for folder, arguments in ((tmp_path, [program, app]), (CHECKOUT, [checkout]))
    )
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == here.stdout
