"""Let transformers' trainers compute on one chosen device, where they would take the first GPU or all of them.

They ask accelerate, which takes what an environment variable names, and then put themselves on ``cuda:0`` with every
other GPU beside it (`torch.nn.DataParallel`). Knows no trainer.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, cast

import torch
from transformers import TrainingArguments

_NAMED = "ACCELERATE_TORCH_DEVICE"


@contextmanager
def one_device(device: torch.device) -> Generator[None]:
    """For a while, the settings of any trainer say this device and no other."""
    theirs = vars(TrainingArguments)["_setup_devices"].func

    def chosen(arguments: TrainingArguments) -> torch.device:
        theirs(arguments)  # begins accelerate's state, and takes the first GPU
        arguments._n_gpu = int(device.type != "cpu")  # pyright: ignore[reportPrivateUsage]
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    ours = cached_property(chosen)
    ours.__set_name__(TrainingArguments, "_setup_devices")
    before = os.environ.get(_NAMED)
    os.environ[_NAMED] = str(device)
    settings = cast("Any", TrainingArguments)
    honest, settings._setup_devices = vars(TrainingArguments)["_setup_devices"], ours
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    finally:
        settings._setup_devices = honest
        if before is None:
            del os.environ[_NAMED]
        else:
            os.environ[_NAMED] = before
