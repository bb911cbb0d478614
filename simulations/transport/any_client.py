"""Peak memory of clients without PyTorch in a run of `tiny`: one whose trainer is a program, and the one in JavaScript.

(cd client/js && npm install)
python simulations/transport/any_client.py
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plait.adapters.fingerprint import fingerprint_base
from plait.training.tiny import unpack_tiny

ROOT = Path(__file__).parents[2]
WORDS = ("the", "server", "keeps", "an", "adapter", "that", "every", "client", "trains", "and", "sends", "back")
RUN = (
    "--base", "tiny", "--rounds", "2", "--local-steps", "16", "--batch-size", "2", "--seq-len", "32", "--threads", "1",
    "--wire", "1", "--min-clients", "2", "--seed", "5",
)  # fmt: skip


def main() -> None:
    """Run, and print the highest resident memory of each process."""
    plait = [sys.executable, "-m", "plait.cli.main"]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        drawn = random.Random(0)
        texts = [json.dumps({"text": " ".join(drawn.choices(WORDS, k=60))}) for _ in range(40)]
        data = Path(folder) / "data.jsonl"
        data.write_text("\n".join(texts) + "\n")
        child = f"{sys.executable} {ROOT / 'client' / 'example_trainer.py'} {fingerprint_base(unpack_tiny())}"
        policy = Path(folder) / "policy.toml"
        policy.write_text("min-tokens = 512\n")
        common = ("--server", server, "--data", str(data))
        given = ("--state", f"{folder}/py", "--name", "a", "--yes", "--policy", str(policy), "--quiet")
        node = ("node", str(ROOT / "client" / "js" / "example" / "tiny.js"))
        serving = subprocess.Popen([*plait, "server", "--insecure", "--listen", server, "--out", f"{folder}/run", *RUN])
        clients = {
            "plait client --trainer-exec": [*plait, "client", "--insecure", *common, *given, "--trainer-exec", child],
            "client/js (with its trainer)": [*node, *common, "--state", f"{folder}/js", "--name", "b"],
        }
        running = {name: subprocess.Popen(command) for name, command in clients.items()}
        peaks = dict.fromkeys(running, 0)
        while serving.poll() is None:
            for name, process in running.items():
                peaks[name] = max(peaks[name], _peak_kib(process.pid))
            time.sleep(0.1)
        for process in running.values():
            process.terminate()
    for name, peak in peaks.items():
        print(f"{name:30} {peak / 1024:6.0f} MiB")


def _peak_kib(process: int) -> int:
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
