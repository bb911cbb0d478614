"""A full disk or lack of memory ends a command in one line with the remedy, and leaves nothing half-written."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from plait.errors import machine_fault
from tests.plait.exporting.conftest import write_adapter

FULL = "the disk is full"
MEMORY = "too little memory"
FAULTS = {
    "disk": (OSError(errno.ENOSPC, "No space left on device", "/some/file"), FULL),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
    "safetensors": (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
    "python": (MemoryError(), MEMORY),
    "numpy": (MemoryError("Unable to allocate 1.50 TiB for an array with shape (9,)"), "1.50 TiB more were asked for"),
    "torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes."),
        "4000000000000 bytes more were asked for",
    ),
    "CUDA": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        "this GPU has too little memory (2.00 GiB more were asked for)",
    ),
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


EXPORT = ("export", "ADAPTER", "OUT", "--to", "merged"), "plait.exporting.merged.merge_in_place"
OTHERS = {
    "eval": (("eval", "--adapter", "ADAPTER", "--data", "chatterbot"), "plait.training.evaluation.evaluate_adapter"),
    "simulate": (
        ("simulate", "--base", "tiny", "--data", "chatterbot", "--out", "OUT"),
        "plait.simulation.execution.execute",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "breaks", "fault"),
    [
        *(pytest.param(*EXPORT, fault, id=f"export-{fault}") for fault in FAULTS),
        # What an error means does not depend on the verb: a disk's, memory's and a library's own.
        *(
            pytest.param(*other, fault, id=f"{name}-{fault}")
            for name, other in OTHERS.items()
            for fault in ("disk", "python", "torch")
        ),
    ],
)
def test_a_command_ends_in_one_line_that_says_what_to_do(plait, adapter, tmp_path, monkeypatch, fault, verb, breaks):
    error, said = FAULTS[fault]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(breaks, fail)
    places = {"ADAPTER": adapter, "OUT": tmp_path / "out"}
    ran = plait(*(places.get(word, word) for word in verb))
    last = ran.err.splitlines()[-1]
    assert (ran.code, last[:7]) == (1, "error: ")
    assert said in last or "No space left" in last or "quota exceeded" in last
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_other_errors_are_not_taken_for_the_machines():
    assert machine_fault(RuntimeError("shape '[2]' is invalid")) is None
    assert machine_fault(OSError(errno.ENOENT, "No such file")) is None
