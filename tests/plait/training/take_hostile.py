"""Run as a separate process: reads hostile adapters in turn, and prints a line of JSON with the result of each.

    python take_hostile.py describe|eval DIRECTORY < CASES

CASES is a list of [name, what]: for ``describe`` a spec, for ``eval`` the path of a PEFT directory. The first is honest
and imports all libraries; then memory is limited to a little more than is in use, and every file opened elsewhere,
every connection and every process is recorded. The caller has to detect an endless loop.
"""

import json
import resource
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from plait.cli.app import app
from plait.data import Record, RecordKind
from plait.errors import PlaitError
from plait.rounds.participant import Participant
from plait.system.files import cache_directory
from plait.training.bases import locate_base
from plait.training.device import Compute
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from plait.wire.messages import ClientCard, DescribeTask, decode_reply, encode_task
from plait.wire.settings import Settings

MEMORY = 1 << 30
SETTINGS = Settings(
    local_steps=1, batch_size=1, gradient_accumulation_steps=1, seq_len=32, learning_rate=1e-2, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.2, max_held_out_sequences=4, seed=5, total_steps=6,
)  # fmt: skip


class _Memory(dict):
    def load(self, key):
        return self.get(key)

    def save(self, key, data):
        self[key] = data


def describe(directory: Path):
    base = locate_base("tiny")
    resident = ResidentBase(
        base.directory, base.reference.fingerprint, Compute(torch.device("cpu"), torch.float32), seq_len=32
    )
    records = [Record(text="def add(left, right):\n    return left + right\n" * 40)]
    model = PeftLocalModel(resident, "ada", records, kind=RecordKind.TEXT, histogram={})
    participant = Participant("ada", model, _Memory())

    def take(spec: dict) -> str:
        task = b"".join(encode_task(DescribeTask(SETTINGS, json.dumps(spec))))
        reply = decode_reply(participant.answer(task), max_bytes=1 << 20)
        return "" if isinstance(reply, ClientCard) else reply.detail

    return take


def evaluate(directory: Path):
    data = directory / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"def f{n}(x):\n    return x + {n}\n" * 9}) + "\n" for n in range(8)))
    options = ["--data", str(data), "--base", "tiny", "--seq-len", "16", "--max-sequences", "4", "--json"]

    def take(adapter: str) -> str:
        try:
            with redirect_stdout(StringIO()):
                app(["eval", "--adapter", adapter, *options], standalone_mode=False)
        except PlaitError as error:
            return str(error)
        return ""

    return take


def watch(allowed: list[str]) -> list[str]:
    seen: list[str] = []
    where = tuple(allowed)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
            if not path.startswith(where):
                seen.append(f"open {path}")
        elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
            seen.append(event)

    sys.addaudithook(hook)
    return seen


def main() -> None:
    mode, directory = sys.argv[1], Path(sys.argv[2])
    take = {"describe": describe, "eval": evaluate}[mode](directory)
    (honest, first), *rest = json.load(sys.stdin)
    print(json.dumps({"case": honest, "refused": take(first), "seen": []}), flush=True)
    here = Path(__file__).parents[3]
    allowed = [sys.prefix, sys.base_prefix, str(here), str(directory / "adapters"), str(directory / "data.jsonl")]
    seen = watch([*allowed, str(locate_base("tiny").directory), str(cache_directory()), "/proc/", "/sys/", "/dev/null"])
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    for name, what in rest:
        seen.clear()
        try:
            refused = take(what)
        except BaseException as error:
            refused = f"!{type(error).__name__}"
        print(json.dumps({"case": name, "refused": refused, "seen": list(seen)}), flush=True)


if __name__ == "__main__":
    main()
