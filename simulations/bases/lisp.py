"""Emacs Lisp by package on bases of 135 million to 1.5 billion parameters: eight clients, five rounds, defaults.

    python simulations/bases/lisp.py smollm2-135m gemma-270m qwen-0.5b qwen-1.5b    # adds rows to results-lisp.jsonl
    python simulations/bases/lisp.py --clients-too qwen-0.5b                        # memory of a server and of a client
    python simulations/bases/lisp.py --table                                        # the README's table

Each run is a process of its own with plait's defaults; only the base, the data and the seed are given.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from inputs import base, lisp

HERE = Path(__file__).parent
PLAIT = Path(sys.executable).with_name("plait")
RESULTS = HERE / "results-lisp.jsonl"
FROM_SUMMARY = (
    *("base_held_out_loss", "final_held_out_loss", "gain", "gain_interval", "own_held_out_loss", "learning_rate"),
    *("trainable_parameters", "uplink_bytes", "downlink_bytes", "savings_vs_fp32_adapter", "savings_vs_bf16_adapter"),
    *("savings_vs_4bit_adapter", "train_tokens_per_s", "wall_s", "peak_rss_bytes", "held_out_loss_by_round"),
)


def simulated(name: str, seed: int, rounds: int) -> dict[str, Any]:
    """A run's row."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _plait("simulate", *_settings(name, seed, rounds), "--out", run, "--samples", 0)
        summary = json.loads((run / "summary.json").read_text())
    return {"base": name, "seed": seed, "rounds": rounds, **{key: summary[key] for key in FROM_SUMMARY}}


def deployed(name: str) -> dict[str, Any]:
    """Peak memory of a server and of its two clients, bytes, over one round; the base's weights beside them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    records = [json.loads(line) for line in Path(lisp()).read_text().splitlines()]
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        settings = [*("--base", base(name)), *("--rounds", "1"), *("--clients", "2"), *("--samples", "0")]
        commands = {"server": ["server", "--insecure", "--listen", address, "--min-clients", "2", *settings]}
        commands["server"] += ["--out", str(here / "run")]
        for package in ("calc", "org"):
            data = here / f"{package}.jsonl"
            data.write_text("".join(f"{json.dumps(each)}\n" for each in records if each["package"] == package))
            commands[package] = [*("client", "--insecure", "--server", address, "--data", str(data))]
            commands[package] += ["--base", base(name), "--state", str(here / package), "--yes"]
        started = {subprocess.Popen([PLAIT, *command]).pid: who for who, command in commands.items()}
        while started:
            process, status, usage = os.wait3(0)
            if os.waitstatus_to_exitcode(status):
                raise SystemExit(f"{started[process]} failed")
            peaks[started.pop(process)] = usage.ru_maxrss * 1024
    return {"base": name, "deployed": True, **peaks}


def table() -> str:
    """The rows as Markdown."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    less = "Times less than float32, bfloat16, 4 bits"
    titles = ("Base", "Adapter", "Held-out loss", "Personalized", "MB sent", less, "Tokens/s", "Memory", "A round")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        if row.get("deployed"):
            continue
        less = ", ".join(f"{row[f'savings_vs_{form}_adapter']:.1f}" for form in ("fp32", "bf16", "4bit"))
        lines.append(
            f"| {row['base']} | {row['trainable_parameters'] / 1e6:.2f} M | {row['base_held_out_loss']:.3f} → "
            f"{row['final_held_out_loss']:.3f} | {row['own_held_out_loss']:.3f} | "
            f"{(row['uplink_bytes'] + row['downlink_bytes']) / 1e6:.1f} | {less} | {row['train_tokens_per_s']:.0f} | "
            f"{row['peak_rss_bytes'] / 1e9:.2f} GB | {row['wall_s'] / row['rounds']:.0f} s |"
        )
    return "\n".join(lines)


def _settings(name: str, seed: int, rounds: int) -> list[str]:
    data = ["--data", lisp(), "--partition", "natural:package", "--clients", "8"]
    return ["--base", base(name), *data, "--rounds", str(rounds), "--seed", str(seed)]


def _plait(*arguments: object) -> None:
    subprocess.run([PLAIT, *map(str, arguments)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients-too", action="store_true", help="two clients and a server as processes, one round")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for each in options.bases:
        made = deployed(each) if options.clients_too else simulated(each, options.seed, options.rounds)
        with RESULTS.open("a") as file:
            file.write(f"{json.dumps(made)}\n")
    if options.table:
        print(table())
