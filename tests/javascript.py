"""The client in JavaScript with its one package, installed once for all tests of a machine."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "client" / "js"
_INSTALL_S = 180


def installed() -> Path:
    """The folder of the client, beside its package; skips the test where Node.js or a registry is not there."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are not installed")
    digest = hashlib.sha256((SOURCE / "package.json").read_bytes()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"plait-js-{os.getuid()}-{digest}"
    if not cache.exists():
        aside = Path(tempfile.mkdtemp(prefix="plait-js-aside-"))
        shutil.copy(SOURCE / "package.json", aside)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        try:
            done = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not install @grpc/grpc-js in time")
        if done.returncode:
            pytest.skip(f"npm cannot install @grpc/grpc-js here: {done.stderr.strip().splitlines()[-1:]}")
        try:
            aside.rename(cache)
        except OSError:  # another process was first
            shutil.rmtree(aside)
    return cache


def copied(folder: Path) -> Path:
    """A copy of the client in a folder, with its package; gives the example's program."""
    packages = installed()
    shutil.copytree(SOURCE, folder / "client" / "js", ignore=shutil.ignore_patterns("node_modules"))
    (folder / "client" / "js" / "node_modules").symlink_to(packages / "node_modules")
    for read in ("proto", "plait/training/tiny_base"):
        shutil.copytree(SOURCE.parents[1] / read, folder / read)
    return folder / "client" / "js" / "example" / "tiny.js"
