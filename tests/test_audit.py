"""`.ci/audit` fails where a pinned package is vulnerable, and passes where nobody could be asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / ".ci" / "audit"
FLAW = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}


def audit(tmp_path, said: str, code: int):
    """Run it with a pip-audit that says this."""
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint({said!r})\nsys.exit({code})\n")
    fake.chmod(0o755)
    return subprocess.run([sys.executable, str(AUDIT), str(fake)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("said", "code", "expected", "words"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": [FLAW]}]}, 1, 1, "a 1: PYSEC-1, mended in 2.0"),
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, 0, "0 vulnerable"),
        ("Traceback (most recent call last): ConnectionError", 1, 0, "could not be asked"),
        ("", 2, 0, "could not be asked"),
    ],
)
def test_it_fails_for_what_is_known_and_for_nothing_else(tmp_path, said, code, expected, words):
    done = audit(tmp_path, said if isinstance(said, str) else json.dumps(said), code)
    assert done.returncode == expected
    assert words in done.stdout


def test_without_pip_audit_it_says_that_it_could_not_ask():
    done = subprocess.run([sys.executable, str(AUDIT), "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "could not be asked" in done.stdout
