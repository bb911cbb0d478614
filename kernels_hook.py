"""Builds the C++ into a wheel for machines without a compiler, if ``PLAIT_KERNELS`` is set.

Of hatchling; knows nothing of plait but where its C++ is, and the compiler's flags.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Each file names the C++ beside it.
_UNITS = ("plait/training/fused/kernels.py", "plait/wire/codecs/compiled.py")
# Processors since 2013, and all 64-bit ones of ARM; `plait.system.compiler` asks for what the first needs.
_OLDEST = {"x86_64": "-march=x86-64-v3", "aarch64": "-march=armv8-a"}


class Kernels(BuildHookInterface[Any]):
    """Adds a library for each unit, under the name that `plait.system.compiler` looks for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is packed."""
        del version
        if not os.environ.get("PLAIT_KERNELS"):
            return
        root = Path(self.root)
        flags = [flag for flag in _literal(root / "plait/system/compiler.py", "FLAGS") if flag != "-march=native"]
        for unit in _UNITS:
            folder = (root / unit).parent
            code = "".join((folder / name).read_text() for name in _literal(root / unit, "SOURCES"))
            made = Path(self.directory) / f"{hashlib.sha256(code.encode()).hexdigest()}.so"
            made.parent.mkdir(parents=True, exist_ok=True)
            compiler = [os.environ.get("CXX") or "c++", *flags, _OLDEST[platform.machine()], "-fopenmp"]
            subprocess.run([*compiler, "-x", "c++", "-", "-o", str(made)], input=code.encode(), check=True, cwd=folder)
            build_data["force_include"][str(made)] = f"plait/system/built/{made.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _literal(file: Path, name: str) -> tuple[str, ...]:
    """The value of a constant, without an import of what its module imports."""
    assigned = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == name)
