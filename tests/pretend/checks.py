"""Do plait's checks of a device on the pretended one; a process of its own, because torch must not be loaded yet.

    python -m tests.pretend.checks LIBRARY NAMES    the checks with these names, separated by commas; all if empty

Prints one JSON object per check: its name, the largest difference from the CPU and its tolerance, or the error.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.pretend import cuda


def main(library: str, names: str) -> None:
    """Run and print."""
    # A mode of torch is the thread's, so the base must be loaded in this one.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    pretended = cuda.install(Path(library))
    import torch

    from plait.training.bases import quiet_libraries
    from plait.training.device import Compute
    from simulations.bench.same import checks

    torch.set_num_threads(1)
    quiet_libraries()
    wanted = [name for name in names.split(",") if name]
    with pretended():
        print(json.dumps({"name": "planted", "caught": _caught(torch)}), flush=True)
        for check in checks():
            if wanted and check.name not in wanted:
                continue
            found: dict[str, object] = {"name": check.name, "tolerance": check.tolerance}
            try:
                found["difference"] = check.difference(Compute(torch.device("cuda"), torch.float32))
            except Exception as error:  # one that fails must not hide the others
                found["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
            print(json.dumps(found), flush=True)


def _caught(torch: Any) -> list[bool]:
    """Whether each of some mistakes fails as it would on a GPU."""
    there, here, other = torch.ones(3, device="cuda"), torch.ones(3), torch.ones(3, device="cuda:1")
    mistakes = (
        lambda: there + here,
        lambda: torch.nn.functional.linear(there, torch.ones(2, 3)),
        lambda: torch.cat([there, here]),
        lambda: torch.where(there > 0, there, here),
        lambda: there.numpy(),
        lambda: there + other,
        lambda: torch.nn.functional.linear(other, torch.ones(2, 3, device="cuda:0")),
    )
    found: list[bool] = []
    for mistake in mistakes:
        try:
            mistake()
            found.append(False)
        except (RuntimeError, TypeError):
            found.append(True)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:3])
