"""Memory of one process that runs or trains a base: `footprint.py BASE METHOD DTYPE STEPS`.

Resident memory once the base is loaded, and the peak during the work, with 4 sequences of 128 tokens at a time.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from pathlib import Path

import torch
from lab import CODE, Lab


def resident(field: str) -> int:
    """A field of this process's status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def main() -> None:
    base, method, dtype, steps = sys.argv[1:]
    bare = resident("VmRSS")
    lab = Lab(base, learn=CODE, seq_len=128, dtype=dtype, held_out=4)
    blueprint = lab.design(0, method="lora" if method == "inference" else method)
    model = lab.base.carrying(blueprint.spec, blueprint.initial)
    train, _ = lab._texts[CODE]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    loaded, started = resident("VmRSS"), time.perf_counter()
    if method == "inference":
        tokens = torch.tensor([example.tokens for example in train[:4]], dtype=torch.long)
        with torch.no_grad():
            model.eval()(input_ids=tokens)
    else:
        for _ in lab.train(blueprint, rate=1e-4, steps=int(steps), seed=0):
            pass
    weights = sum(parameter.nbytes for parameter in model.parameters())
    print(
        json.dumps(
            {
                "method": method,
                "dtype": dtype,
                "trainable_parameters": 0 if method == "inference" else blueprint.spec.layout.size,
                "weights_bytes": weights,
                "loaded_bytes": loaded - bare,
                "working_bytes": resident("VmHWM") - loaded,
                "peak_bytes": resident("VmHWM"),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
