"""A checkpoint's files: the first byte selects the file to replace, and whether to make the digests fit."""

import hashlib
import json
from pathlib import Path

from harness import SCRATCH, instrumented, main

with instrumented():
    import numpy as np

    from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
    from plait.aggregation import RULES, geometry_of
    from plait.rounds.run_state import (
        RankedAdapter,
        Ranks,
        damage_of,
        digest_of,
        finished_in_checkpoint,
        initial_state,
        load_checkpoint,
        save_checkpoint,
    )

LAYOUT = Layout.of({"q.lora_A.weight": [2, 3], "q.lora_B.weight": [3, 2]})
SPEC = AdapterSpec("lora", {"r": 2, "lora_alpha": 4}, AdapterTask.CAUSAL_LM, (), LAYOUT, 0)
STATE = AdapterState(LAYOUT, np.arange(LAYOUT.size, dtype=np.float32))
RANKS = Ranks((RankedAdapter(2, SPEC, geometry_of(SPEC), STATE),), resizing=RULES["fedavg"].resizing)
save_checkpoint(SCRATCH, initial_state(b"r" * 16, RANKS))
(FOLDER,) = SCRATCH.iterdir()
FILES = sorted(FOLDER.iterdir())
ORIGINALS = {path: path.read_bytes() for path in FILES}


def parse(data: bytes) -> None:
    if not data or data[0] >= 2 * len(FILES):
        return
    path, fits = FILES[data[0] % len(FILES)], data[0] >= len(FILES)
    path.write_bytes(data[1:])
    if fits:
        make_fit(path, data[1:])
    try:
        damage_of(SCRATCH)
        finished_in_checkpoint(SCRATCH)
        load_checkpoint(SCRATCH, RANKS)
    finally:
        for each, original in ORIGINALS.items():
            each.write_bytes(original)


def make_fit(path: Path, data: bytes) -> None:
    """State and files as somebody would leave them who knows how they are protected."""
    text = data if path.name == "state.json" else ORIGINALS[FOLDER / "state.json"]
    try:
        scalars = json.loads(text)
        if path.name != "state.json":
            scalars["files"][path.name] = hashlib.sha256(data).hexdigest()
        scalars.pop("digest")
        scalars["digest"] = digest_of(scalars)
        (FOLDER / "state.json").write_text(json.dumps(scalars))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return


if __name__ == "__main__":
    count = len(FILES)
    main(parse, [bytes([n]) + ORIGINALS[FILES[n % count]] for n in range(2 * count)])
