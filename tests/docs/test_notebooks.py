"""Every notebook of the documentation runs from its first cell to its last, in a directory of its own.

One does so in a kernel, as Jupyter has it; the others in a process that has the libraries loaded already.
"""

import json
import os
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.commands import run_command

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


IN_A_KERNEL = "first_run"

# Cells one after the other in IPython's shell, each result in all the forms that a page could show.
SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.display_formatter.active_types = shell.display_formatter.format_types
for source in json.loads(open(sys.argv[1]).read()):
    shell.run_cell(source, store_history=True).raise_error()
"""


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook finds this environment's plait, as a module and as a command."""
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PATH", f"{root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != IN_A_KERNEL], ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    done = run_command(tmp_path / "cells.json", program=SHELL, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
# The kernel's own client, not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_in_a_kernel(tmp_path):
    (path,) = (path for path in NOTEBOOKS if path.stem == IN_A_KERNEL)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_it_is_kept_without_results(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
