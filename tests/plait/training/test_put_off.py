from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from plait.training.put_off import _Later, _Meanwhile, without_bitsandbytes

PROGRAM = """
import importlib.util, sys
from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.training.blueprint import design, read_base_config
from plait.training.tiny import unpack_tiny

config = read_base_config(unpack_tiny(), Task.CAUSAL_LM)
design(config, AdapterRequest("qlora"), task=Task.CAUSAL_LM, seed=0)
assert not {"bitsandbytes", "scipy.optimize"} & sys.modules.keys(), "both are put off"

from transformers.loss import loss_for_object_detection
assert [list(found) for found in loss_for_object_detection.linear_sum_assignment([[0, 1], [1, 0]])] == [[0, 1], [0, 1]]
assert "scipy.optimize" in sys.modules, "it comes when it is used"

import peft.helpers
from peft.import_utils import is_bnb_available
assert is_bnb_available(), "PEFT knows afterwards that it is installed"
assert peft.helpers.bnb.functional.dequantize_4bit is sys.modules["bitsandbytes"].functional.dequantize_4bit
"""


@pytest.mark.extra("qlora")
@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_what_the_libraries_import_for_nothing_comes_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("package", "stands"), [("plait.nothing", True), ("not_installed.nothing", False)])
def test_what_is_not_installed_is_not_stood_for(package: str, stands: bool) -> None:
    seen: list[bool] = []
    loader: Any = SimpleNamespace(exec_module=lambda _: seen.append(package in sys.modules))
    module = ModuleType("importing")
    module.__spec__ = ModuleSpec("importing", None)
    _Meanwhile(loader, _Later(package)).exec_module(module)
    assert seen == [stands]
    assert package not in sys.modules


def test_threads_that_attach_adapters_take_turns() -> None:
    order: list[str] = []

    def another() -> None:
        with without_bitsandbytes():
            order.append("the other")

    with without_bitsandbytes():
        waiting = threading.Thread(target=another)
        waiting.start()
        waiting.join(0.05)
        order.append("the first")
    waiting.join()
    assert order == ["the first", "the other"]
