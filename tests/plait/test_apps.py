import subprocess
import sys

import pytest

from plait.apps import bind_apps
from plait.errors import MachineError
from tests.commands import run_command


@pytest.mark.slow
@pytest.mark.parametrize(("name", "public"), [("server", "Server"), ("client", "Client")])
def test_a_program_may_have_the_name_of_a_package_of_plaits(tmp_path, name, public):
    """Its folder comes first where Python looks for modules."""
    program = tmp_path / f"{name}.py"
    program.write_text(
        "import sys, plait\nassert __name__ == '__main__', 'imported'\n"
        f"plait.{public}\nfrom server.uploads import Limits\nprint(Limits, sys.path[0])\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["<class", "'server.uploads.Limits'>", str(tmp_path)], 0), done


def test_a_package_of_the_programs_that_is_loaded_already_is_named(tmp_path, monkeypatch):
    theirs = type(sys)("server")
    theirs.__file__ = str(tmp_path / "server.py")
    monkeypatch.setitem(sys.modules, "server", theirs)
    with pytest.raises(MachineError, match=r"has loaded '.*server\.py' as 'server', which is the name of a package"):
        bind_apps()


@pytest.mark.slow
def test_neither_service_nor_node_loads_flower():
    code = (
        "import sys, client.base, client.program\n"
        "import server.program, server.served_run, server.nodes_channel\n"
        "assert 'flwr' not in sys.modules"
    )
    done = run_command(program=code)
    assert done.returncode == 0, done.stderr
