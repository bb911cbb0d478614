"""The audit of pinned packages reports what it did and what it could not do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[2] / ".ci" / "audit"


def audit(tmp_path: Path, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it with a `pip-audit` that does this."""
    service = tmp_path / "pip-audit"
    service.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    service.chmod(0o755)
    command = [sys.executable, str(AUDIT), *options, str(service)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("options", "code"), [((), 1), (("--may-be-offline",), 0)])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit('ConnectionError: api.osv.dev is out of reach')", "ConnectionError: api.osv.dev is out of reach"),
        ("print('{')", "pip-audit ended with 0"),
    ],
)
def test_an_audit_that_could_not_ask_says_that_nothing_was_checked(tmp_path, options, code, body, why):
    done = audit(tmp_path, body, *options)
    assert done.returncode == code
    assert "audit: NOT DONE, none of" in done.stderr
    assert done.stderr.strip().endswith(why)


@pytest.mark.slow
def test_torch_is_asked_about_too(tmp_path):
    answer = json.dumps({"dependencies": []})
    kept = tmp_path / "asked"
    body = f"import shutil; shutil.copy(sys.argv[-1], {str(kept)!r}); print({answer!r})"
    assert audit(tmp_path, body).returncode == 0
    asked = kept.read_text().splitlines()
    assert [line for line in asked if line.startswith("torch==")]
    assert len(asked) > 50


FLAW = {"name": "numpy", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [([FLAW], 1, "audit: numpy 2: CVE-1, fixed in 3"), ([], 0, "0 vulnerable")],
)
def test_a_vulnerable_package_fails_the_audit(tmp_path, found, code, said):
    answer = json.dumps({"dependencies": [*found, {"name": "peft", "version": "1", "vulns": []}]})
    done = audit(tmp_path, f"print({answer!r})")
    assert done.returncode == code
    assert said in done.stdout
