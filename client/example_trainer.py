"""A trainer for `plait client --trainer-exec`, without PyTorch: JSON lines in, JSON lines out, adapters in files.

    plait client … --data FILE --trainer-exec "python client/example_trainer.py FINGERPRINT"

It learns nothing from text: every number of the adapter is drawn towards one that the data decide. Put your framework's
training in place of that. FINGERPRINT is that of the run's base, which a real trainer computes.
"""

import hashlib
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

lines: queue.SimpleQueue[str] = queue.SimpleQueue()


def listen() -> None:
    """Hear questions while working on one; end with who asks."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def say(**said: object) -> None:
    """One answer, or progress."""
    print(json.dumps(said), flush=True)


def train(asked: dict[str, Any], tensors: dict[str, Any], goal: float) -> None:
    """Steps, until they are done or nobody waits for them."""
    for number in range(asked["steps"]):
        if not lines.empty() and "abandon" in lines.get():
            say(abandoned=True)
            return
        tensors = {name: of + np.float32(0.1) * (np.float32(goal) - of) for name, of in tensors.items()}
        say(progress={"step": number + 1})
    save_file(tensors, asked["into"])
    say(examples=64, metrics={"train_loss": 0.5, "train_tokens": 64 * asked["steps"]})


def main(fingerprint: str) -> None:
    """Answer questions."""
    threading.Thread(target=listen, daemon=True).start()
    goal = hashlib.sha256(Path(os.environ["PLAIT_DATA"]).read_bytes()).digest()[0] / 2550 - 0.05
    while True:
        asked = json.loads(lines.get())
        tensors = load_file(asked["adapter"]) if "adapter" in asked else {}
        match asked["do"]:
            case "describe":
                counts = {"train_examples": 64, "train_tokens": 4096, "held_out_examples": 8, "held_out_tokens": 512}
                say(fingerprint=fingerprint, **counts)
            case "train":
                train(asked, tensors, goal)
            case "evaluate":
                square = float(np.mean([np.mean((of - goal) ** 2) for of in tensors.values()]))
                say(losses=[64 * square] * 8, counts=[64] * 8)
            case _:
                say(abandoned=True)


if __name__ == "__main__":
    main(sys.argv[1])
