"""Flower's own examples as they stand in its repository, unchanged and with four lines changed, on its simulation.

    python simulations/loops/flower.py --json
    python simulations/loops/flower.py --json --python ENVIRONMENT/bin/python --flower CLONE/.git

The examples come from https://github.com/adap/flower, or its clone here, and are not kept. `--python` has what their
pyproject.toml asks for, flwr with Ray, and plait's dependencies. Base and texts are local: they are given to both in
the same way (`Example.given`), as are seeds and Flower's own `message_size_mod`, which counts the bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from loops import A_FOURTH, CELL, CHECKOUT, EVERYBODY, Edits, Row, Watch, arguments, compared, edited, report

COMMIT = "fdef7afb1dca3030553be302366cfd285ed6632c"
SEEDED = "import os\nimport torch\n\ntorch.manual_seed(int(os.environ['LOOP_SEED']))\n"
COUNTED = (
    "app = ClientApp()",
    "from flwr.clientapp.mod import message_size_mod\n\napp = ClientApp(mods=[message_size_mod])",
)
ACCURACY = """

class load_metric:
    def __init__(self, name):
        self.right = []

    def add_batch(self, predictions, references):
        self.right += (predictions == references).tolist()

    def compute(self):
        return {"accuracy": sum(self.right) / len(self.right)}


"""
"""That of the package evaluate comes from a hub."""
SAVING = "train.training-arguments.save-steps = 1000\n"
MOD = [
    ("from flwr.clientapp.mod", "from plait.flower import compression_mod\nfrom flwr.clientapp.mod"),
    ("mods=[message_size_mod]", "mods=[message_size_mod, compression_mod]"),
]


STRATEGY = "from flwr.serverapp.strategy import FedAvg\n"


def strategy(start: str) -> list[tuple[str, str]]:
    """The server's two lines; `start` is the line that starts the strategy."""
    return [
        (STRATEGY, f"{STRATEGY}from plait.flower import Compressed\n"),
        (start, start.replace("strategy.start", "Compressed(strategy).start")),
    ]


@dataclass(frozen=True)
class Example:
    """An example of Flower's.

    Attributes:
        given: what both get besides: seed, counter, a local base and texts.
        edits: what a user changes.
        settings: Flower's run configuration.
        losses: a program of the example's own parts, run in its folder: prints the losses before and after.
    """

    folder: str
    package: str
    given: Edits
    edits: Edits
    settings: Mapping[str, object]
    losses: str


FLOWERTUNE = Example(
    "examples/flowertune-llm", "flowertune_llm",
    given={
        "flowertune_llm/client_app.py": [COUNTED],
        "flowertune_llm/models.py": [("import math\n", SEEDED + "import math\n")],
        "pyproject.toml": [(SAVING, SAVING + 'train.training-arguments.report-to = "none"\n')],
    },
    edits={
        "flowertune_llm/client_app.py": MOD,
        "flowertune_llm/server_app.py": strategy("    strategy.start(\n"),
    },
    settings={
        "train.learning-rate-max": 3e-3, "train.learning-rate-min": 1e-4, "train.seq-length": 96,
        "train.training-arguments.per-device-train-batch-size": 4, "train.training-arguments.max-steps": 4,
        "train.save-every-round": 1000,
    },
    losses="""
import json, pathlib, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, held_out, adapter = sys.argv[1], sys.argv[2], next(pathlib.Path(sys.argv[3]).glob("results/*/peft_*"))
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(base)
texts = [json.loads(line) for line in open(held_out)]

def loss(model):
    total = counted = 0.0
    with torch.inference_mode():
        for each in texts:
            prompt = tokenizer("### Instruction:\\n" + each["instruction"] + "\\n### Response:").input_ids
            tokens = torch.tensor([(prompt + tokenizer(" " + each["output"]).input_ids)[:96]])
            labels = tokens.clone()
            labels[0, :len(prompt)] = -100
            count = int((labels[0, 1:] != -100).sum())
            total += float(model(tokens, labels=labels).loss) * count
            counted += count
    return total / counted

model = AutoModelForCausalLM.from_pretrained(base).float().eval()
without = loss(model)
print(json.dumps([without, loss(PeftModel.from_pretrained(model, adapter).float().eval())]))
""",
)  # fmt: skip
QUICKSTART = Example(
    "examples/quickstart-huggingface", "huggingface_example",
    given={
        "huggingface_example/client_app.py": [COUNTED],
        "huggingface_example/task.py": [
            ("from typing import Any\n", "from typing import Any\n" + SEEDED),
            ('dataset="stanfordnlp/imdb"', 'dataset=os.environ["LOOP_DATA"]'),
            ("from evaluate import load as load_metric\n", ACCURACY),
        ],
    },
    edits={
        "huggingface_example/client_app.py": MOD,
        "huggingface_example/server_app.py": strategy("    result = strategy.start(\n"),
    },
    settings={},
    losses="""
import json, os, sys
import torch
from huggingface_example.task import get_model
from transformers import AutoTokenizer
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], model_max_length=512)
texts = [json.loads(line) for line in open(sys.argv[2])]

def loss(model):
    with torch.inference_mode():
        given = [(tokenizer(each["text"], truncation=True, return_tensors="pt"), each["label"]) for each in texts]
        return sum(float(model.eval()(**text, labels=torch.tensor([label])).loss) for text, label in given) / len(texts)

torch.manual_seed(int(os.environ["LOOP_SEED"]))
model = get_model(sys.argv[1])
without = loss(model)
model.load_state_dict(torch.load("final_model.pt", weights_only=True))
print(json.dumps([without, loss(model)]))
""",
)  # fmt: skip

WORKS = {EVERYBODY: (4, 1.0, 10), A_FOURTH: (12, 0.25, 12)}
"""Nodes, the share of them that trains in a round, rounds."""


def texts(folder: Path, seed: int) -> None:
    """Functions of Python's standard library as instructions and answers, and two of its packages to tell apart."""
    draw, found = random.Random(seed), dict[str, list[str]]()
    for package in ("asyncio", "email", "unittest", "json", "http", "logging", "importlib", "xml"):
        (root,) = importlib.util.find_spec(package).submodule_search_locations
        code = "\n".join(path.read_text() for path in sorted(Path(root).rglob("*.py")) if "test" not in path.parts)
        found[package] = [f"    def {part[:280]}" for part in code.split("\n    def ")[1:]]
    functions = [(name, text) for name, each in found.items() for text in each]
    draw.shuffle(functions)
    rows = [
        {"instruction": f"Write {text.split('(')[0].split()[-1]} of {name}.", "output": text, "input": ""}
        for name, text in functions
    ]
    labelled = [{"text": text, "label": int(name == "email")} for name in ("asyncio", "email") for text in found[name]]
    draw.shuffle(labelled)
    for name, each in (("instructions", rows), ("labelled", labelled)):
        (folder / name).mkdir()
        for file, part in ((folder / f"{name}-held-out.jsonl", each[:48]), (folder / name / "train.jsonl", each[48:])):
            file.write_text("".join(json.dumps(row) + "\n" for row in part))


def base(folder: Path) -> Path:
    """The built-in base, as older versions of transformers read it."""
    from plait.training.bases import locate_base

    copy = folder / "base"
    shutil.copytree(locate_base("tiny").directory, copy)
    settings = copy / "tokenizer_config.json"
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | known))
    config = copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token_id": 0}))
    return copy


@dataclass(frozen=True)
class Engine:
    """Flower's simulation, one client at a time.

    Attributes:
        python: of the examples' environment.
        out: the folder that it works in.
    """

    python: Path
    out: Path
    environment: Mapping[str, str]

    def run(self, app: Path, settings: Mapping[str, object], nodes: int) -> str:
        """What the run printed."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        (self.out / "config.toml").write_text(
            f'[superlink]\ndefault = "loops"\n[superlink.loops]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        (self.out / "run.toml").write_text("".join(f"{name} = {json.dumps(each)}\n" for name, each in settings.items()))
        engine = f"num-supernodes={nodes} client-resources-num-cpus={os.cpu_count()}"
        link = ["flower-superlink", "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        command = ["flwr", "run", app, "--run-config", self.out / "run.toml", "--federation-config", engine, "--stream"]
        where = {"env": self.environment, "cwd": self.out}
        with (
            (self.out / "superlink.log").open("w") as log,
            subprocess.Popen(link, stdout=log, stderr=log, **where) as up,
        ):
            try:
                while up.poll() is None:
                    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    time.sleep(0.2)
                done = subprocess.run(command, check=False, capture_output=True, text=True, **where)
                return done.stdout + done.stderr
            finally:
                up.terminate()


def measured(example: Example, app: Path, settings: Mapping[str, object], nodes: int, python: Path, shared: Path,
             seed: int) -> tuple[int, list[float], float]:  # fmt: skip
    """Bytes both ways by Flower's mod, losses before and after, processor time."""
    out = Path(tempfile.mkdtemp(prefix="loops-"))
    environment = os.environ | {
        CELL: str(out), "FLWR_HOME": str(out), "LOOP_SEED": str(seed), "LOOP_DATA": str(shared / "labelled"),
        "PYTHONPATH": f"{app}{os.pathsep}{CHECKOUT}", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "RAY_DEDUP_LOGS": "0", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(out / "hub"), "OMP_NUM_THREADS": "1", "TMPDIR": str(out),
    }  # fmt: skip
    watch = Watch(str(out))
    try:
        with watch:
            log = Engine(python, out, environment).run(app, settings, nodes)
        sizes = re.findall(r"(?:Incoming|Outgoing) message size: (\d+) bytes", log)
        kind = "instructions" if example is FLOWERTUNE else "labelled"
        judge = [python, "-c", example.losses, shared / "base", shared / f"{kind}-held-out.jsonl", out]
        judged = subprocess.run(judge, env=environment, cwd=out, capture_output=True, text=True, check=False)
        if not sizes or judged.returncode:
            raise SystemExit(f"{log[-3000:]}\n{(out / 'superlink.log').read_text()[-3000:]}\n{judged.stderr[-2000:]}")
        return sum(map(int, sizes)), json.loads(judged.stdout.splitlines()[-1]), watch.cpu_s
    finally:
        shutil.rmtree(out, ignore_errors=True)


def fetched() -> Path:
    """The commit of Flower's repository, fetched once into the cache."""
    kept = Path.home() / ".cache" / "plait-loops" / "flower"
    if not (kept / "FETCH_HEAD").exists():
        subprocess.run(["git", "init", "--quiet", "--bare", kept], check=True)
        fetch = ["git", f"--git-dir={kept}", "fetch", "--depth", "1", "https://github.com/adap/flower", COMMIT]
        subprocess.run(fetch, check=True)
    return kept


def rows() -> Iterator[Row]:
    """A row for each example, work and seed."""
    options = arguments(
        "flower", list(WORKS), python={"type": Path, "default": Path(sys.executable)},
        flower={"type": Path, "default": None}, examples={"default": "flowertune,quickstart"},
    )  # fmt: skip
    options.flower = options.flower or fetched()
    examples = {"flowertune": FLOWERTUNE, "quickstart": QUICKSTART}
    for title in options.examples.split(","):
        for name in options.works.split(","):
            for seed in map(int, options.seeds.split(",")):
                with tempfile.TemporaryDirectory(prefix="loops-") as kept:
                    yield one(examples[title], {"loop": title, "work": name, "seed": seed}, Path(kept), options)


def one(example: Example, key: Row, shared: Path, options: object) -> Row:
    """Both runs of a row, side by side."""
    nodes, fraction, rounds = WORKS[str(key["work"])]
    texts(shared, key["seed"])
    model = base(shared)
    settings = {**example.settings, "num-server-rounds": rounds}
    if example is FLOWERTUNE:
        settings |= {"dataset.name": str(shared / "instructions"), "model.name": str(model),
                     "strategy.fraction-train": fraction}  # fmt: skip
    else:
        settings |= {"model-name": str(model), "fraction-train": fraction}
    found, lines = list[tuple[int, list[float], float]](), 0
    for way in ("plain", "ours"):
        git = ["git", f"--git-dir={options.flower}", "archive", COMMIT, example.folder]
        with tarfile.open(fileobj=BytesIO(subprocess.run(git, check=True, capture_output=True).stdout)) as packed:
            packed.extractall(shared / way, filter="data")
        app = shared / way / example.folder
        edited(app, example.given)
        if way == "ours":
            lines = edited(app, example.edits)
        found.append(measured(example, app, settings, nodes, options.python, shared, key["seed"]))
    (plain_bytes, (before, plain), plain_cpu), (our_bytes, (_, ours), our_cpu) = found
    return compared(
        key, base=before, losses=(ours, plain), totals=(our_bytes, plain_bytes), cpu_s=(our_cpu, plain_cpu),
        lines_changed=lines,
    )  # fmt: skip


if __name__ == "__main__":
    report("flower", rows)
