import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plait import __version__
from plait.api.serving import CLIENTS_SETTINGS
from plait.cli.options import spelled
from plait.cli.verbs import FORMS, GROUPS, VERBS
from plait.config import TABLES, known_keys
from plait.errors import ConfigError

BENCHES = ("bench wire", "bench aggregate")
ALL_VERBS = [*VERBS, *FORMS]


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*(verb for verb in ALL_VERBS if verb != "bench"), *BENCHES])
def test_every_verb_has_help_with_an_example_in_80_columns(verb, plait, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = plait(*verb.split(), "--help")
    assert ran.code == 0
    assert f"plait {verb}" in ran.out.replace("\n", " ")
    assert "Example:" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_help_begins_with_the_verbs_of_most_users_and_names_every_other(plait):
    shown = plait("--help").out
    beginning, others = shown.split("\nMore (plait help --all)\n")
    first = [verb for group in GROUPS.values() for verb in group]
    assert [line.split()[0] for line in beginning.splitlines() if line.startswith("  ")] == first
    assert set(ALL_VERBS) - set(first) <= set(map(str.strip, re.split("[,:\n]", others.replace("\n    ", " "))))
    assert max(map(len, shown.splitlines())) <= 80
    assert "Exit codes" in shown
    assert plait("help").out == shown


@pytest.mark.parametrize(
    "program", ["import plait", "from plait.cli.main import main; sys.argv = ['plait', '--help']; main()"]
)
def test_help_and_the_import_of_plait_load_no_library(program):
    code = f"import sys\n{program}\nsys.stderr.write(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert not {"torch", "numpy", "grpc", "cryptography", "pydantic", "typer", "rich"} & set(loaded)


@pytest.mark.slow
def test_a_wrong_name_is_told_the_nearest_before_a_heavy_library_is_loaded():
    mistakes = {
        ("simulate", "--base", "smolm2"): "did you mean 'smollm2-135m'?",
        ("simulate", "--rule", "fedavgg"): "did you mean 'fedavg'?",
        ("server", "--insecure", "--base", "smolm2"): "did you mean 'smollm2-135m'?",
        ("estimate", "--method", "lorra"): "did you mean 'lora'?",
    }
    code = (
        "import contextlib, io, json, sys\n"
        "from plait.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['plait', *arguments]\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    heavy = ('torch', 'transformers', 'peft', 'matplotlib', 'datasets', 'flwr_datasets')\n"
        "    print(json.dumps([said.getvalue(), [name for name in heavy if name in sys.modules]]))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(list(mistakes))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for (mistake, hint), line in zip(mistakes.items(), done.stdout.splitlines(), strict=True):
        said, loaded = json.loads(line)
        assert hint in said, mistake
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert loaded == [], mistake


@pytest.mark.parametrize("verb", ["simulate", "server", "estimate"])
def test_help_of_all_shows_every_setting_whole_under_its_table(plait, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    shown = plait(verb, "--help-all").out
    clients = {*CLIENTS_SETTINGS, "clients"} if verb == "server" else set()
    words = {word.rstrip(",") for word in shown.split()}
    assert {key for key in known_keys() if f"--{key}" not in words} == clients
    assert all(f", [{table.table}] in TOML:" in shown for table in TABLES)
    assert max(map(len, shown.splitlines())) <= 80


def test_names_of_other_systems_and_earlier_ones_are_options_too():
    said = spelled(["simulate", "--lr", "0.1", "--model=tiny", "--rank", "2", "--no-keep-updates", "--max-steps", "3"])
    assert said == [
        "simulate", "--learning-rate", "0.1", "--base=tiny", "--rank", "2", "--no-keep-updates", "--local-steps", "3",
    ]  # fmt: skip
    assert spelled(["server", "--own-share=0", "--keep", "last"]) == ["server", "--personalize=0", "--select", "last"]
    assert spelled(["eval", "--lr", "1"]) == ["eval", "--lr", "1"]
    with pytest.raises(ConfigError, match="'local-epochs' is given, expected epochs"):
        spelled(["estimate", "--local-epochs", "3"])


@pytest.mark.slow
def test_doctor_says_what_the_machine_has(plait):
    findings = json.loads(plait("doctor", "--json").out)
    assert {"processor", "device", "torch", "cache"} <= {finding["what"] for finding in findings}


@pytest.mark.parametrize("path", ["\x1b[2Jrun", "\x9b31mrun", "\u202enur", "x" * 300])
def test_an_error_is_one_line_that_no_terminal_takes_for_more(plait, tmp_path, path):
    ran = plait("report", tmp_path / path)
    assert ran.code in (1, 2)
    assert ran.err.startswith("error: ")
    assert ran.err[:-1].isprintable()


@pytest.mark.slow
def test_python_that_plait_starts_does_not_look_into_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "wave.py").write_text("raise SystemExit('planted')")
    code = (
        "import subprocess, sys; from plait.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(subprocess.run([sys.executable, '-c', 'import wave']).returncode)"
    )
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    done = subprocess.run([sys.executable, "-c", code, "--version"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_one_everywhere_and_a_checkout_names_its_commit(plait):
    root = Path(__file__).resolve().parents[3]
    told = {
        "pyproject.toml": f'\nversion = "{__version__}"',
        "CITATION.cff": f"\nversion: {__version__}",
        "server/helm/plait/Chart.yaml": f'\nappVersion: "{__version__}"',
        "server/helm/plait/values.yaml": f"plait-server:{__version__}",
        "client/js/package.json": f'"version": "{__version__}"',
        "CHANGELOG.md": f"\n## {__version__}",
    }
    assert [name for name, text in told.items() if text not in (root / name).read_text()] == []
    commit = r" \([0-9a-f]{7,40}\+?\)" if (root / ".git").exists() else ""
    assert re.fullmatch(re.escape(f"plait {__version__}") + commit, plait("--version").out.strip())
