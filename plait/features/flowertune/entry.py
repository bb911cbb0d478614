"""Runs for the FlowerTune LLM leaderboard (arXiv 2506.02961): a challenge's fixed parts as plait's settings.

What is fixed and how entries are evaluated is stated in the repository flwrlabs/flower, commit fdef7afb of 2026-03-29:
``examples/flowertune-llm-*`` (README.md, pyproject.toml) and ``benchmarks/flowertune-llm/evaluation``. The data set
(``[tool.flwr.app.config.static]``) and the number of SuperNodes may not be changed, and the evaluation is that of the
repository, unmodified, with ``quantization=4``; base, method and rounds are the participant's, and here the template's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plait.config import RunConfig, Scalar, config_from_table
from plait.errors import ConfigError, MachineError, did_you_mean
from plait.files import write_atomically

SOURCE = "github.com/flwrlabs/flower, commit fdef7afb, 2026-03-29"
BUDGET_MB = 200_000
"""Communication that an entry may use, in units of 1024^2 bytes, both ways."""
BASE = "mistralai/Mistral-7B-v0.3"


@dataclass(frozen=True)
class Challenge:
    """A challenge of the leaderboard.

    Attributes:
        data: its data set on the hub; may not be changed.
        supernodes: clients; may not be changed.
        cohort: clients per round of the template.
        columns: which columns the template learns from, where plait would take others.
        folder: of the evaluation, below ``benchmarks/flowertune-llm/evaluation``.
        commands: that evaluate; BASE and ADAPTER stand for the base and the adapter's directory.
        scores: what has to be handed in, with the template's own results in percent.
        mean: of these, as the repository states it; the leaderboard ranks by it.
    """

    data: str
    supernodes: int
    cohort: int
    folder: str
    commands: tuple[str, ...]
    scores: Mapping[str, float]
    mean: float
    columns: str = ""


def _quizzed(options: str, *, batch_size: int) -> tuple[str, ...]:
    model = "--base-model-name-path=BASE --peft-path=ADAPTER --run-name=fl"
    return (f"python eval.py {model} --batch-size={batch_size} --quantization=4 {options}",)


def _generated(*tasks: str) -> tuple[str, ...]:
    return tuple(
        f"python main.py --model=BASE --peft_model=ADAPTER --max_length_generation={2048 if task == 'mbpp' else 1024} "
        "--batch_size=4 --use_auth_token --allow_code_execution --save_generations --save_references "
        f"--tasks={task} --metric_output_path=./evaluation_results_{task}.json"
        for task in tasks
    )


CHALLENGES: Mapping[str, Challenge] = {
    "finance": Challenge(
        "flwrlabs/fingpt-sentiment-train",
        supernodes=50,
        cohort=5,
        folder="finance",
        commands=_quizzed("--datasets=fpb,fiqa,tfns", batch_size=32),
        scores={"FPB": 44.55, "FIQA": 62.50, "TFNS": 28.77},
        mean=45.27,
    ),
    "medical": Challenge(
        "flwrlabs/medical-meadow-medical-flashcards",
        supernodes=20,
        cohort=2,
        folder="medical",
        commands=_quizzed("--datasets=pubmedqa,medmcqa,medqa,careqa", batch_size=16),
        scores={"PubMedQA": 59.00, "MedMCQA": 23.69, "MedQA": 27.10, "CareQA": 21.47},
        mean=32.82,
        columns="prompt=input,completion=output",
    ),
    "code": Challenge(
        "flwrlabs/code-alpaca-20k",
        supernodes=10,
        cohort=2,
        folder="code",
        commands=_generated("mbpp", "humaneval", "multiple-js", "multiple-cpp"),
        scores={"MBPP": 31.60, "HumanEval": 23.78, "MultiPL-E (JS)": 28.57, "MultiPL-E (C++)": 25.47},
        mean=27.36,
    ),
    "general": Challenge(
        "flwrlabs/alpaca-gpt4",
        supernodes=20,
        cohort=2,
        folder="general-nlp",
        commands=_quizzed("--category=stem,social_sciences,humanities", batch_size=16),
        scores={"STEM": 12.37, "SS": 13.49, "Humanities": 12.60},
        mean=12.82,
    ),
}


@dataclass(frozen=True)
class Entry:
    """What was written.

    Attributes:
        directory: that holds it.
        settings: the run's, as in its ``run.toml``.
    """

    directory: Path
    settings: RunConfig


def challenge_named(name: str) -> Challenge:
    """A challenge.

    Raises:
        ConfigError: there is no challenge of this name.
    """
    if name not in CHALLENGES:
        expected = f"one of {', '.join(CHALLENGES)}{did_you_mean(name, CHALLENGES)}"
        raise ConfigError(f"challenge is '{name}', expected {expected}")
    return CHALLENGES[name]


def write_entry(name: str, directory: Path, *, base: str = BASE) -> Entry:
    """Write ``run.toml``, the settings of a run, and ``README.md``, from its estimate to its evaluation.

    Args:
        name: of the challenge, a key of `CHALLENGES`.
        directory: new or empty.
        base: name or directory of the base.

    Raises:
        ConfigError: there is no such challenge, or the directory is not empty.
        MachineError: it cannot be written.
    """
    challenge = challenge_named(name)
    table: dict[str, Scalar] = {
        "data": challenge.data,
        "base": base,
        "partition": "iid",
        "clients": challenge.supernodes,
        "clients-per-round": challenge.cohort,
        "rounds": 200,
        "method": "qlora",
        "rank": 32,
        "alpha": 64.0,
        "dropout": 0.075,
        "target-modules": "q_proj,v_proj",
        "local-steps": 10,
        "batch-size": 16,
        "seq-len": 512,
        "wire": "1",
        "eval-every": 20,
        "eval-clients": challenge.cohort,
    }
    if challenge.columns:
        table["columns"] = challenge.columns
    settings = config_from_table(table, where=f"the settings of challenge '{name}'")
    try:
        if directory.exists() and (not directory.is_dir() or next(directory.iterdir(), None) is not None):
            raise ConfigError(f"'{directory}' is a file or not empty, expected a new or an empty directory")
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / "run.toml", _toml(name, table).encode())
        write_atomically(directory / "README.md", _readme(name, challenge, base).encode())
    except OSError as error:
        raise MachineError(f"cannot write '{directory}': {error.strerror or error}") from error
    return Entry(directory, settings)


def _toml(name: str, table: Mapping[str, Scalar]) -> str:
    fixed = ("data", "columns", "partition", "clients")
    lines = [f"# A run for the {name} challenge of the FlowerTune LLM leaderboard ({SOURCE}).", ""]
    lines += ["# Fixed by the challenge: an entry that changes them is not valid."]
    lines += [f"{key} = {_value(table[key])}" for key in fixed if key in table]
    lines += ["", "# The template's; yours to change."]
    lines += [f"{key} = {_value(value)}" for key, value in table.items() if key not in fixed]
    return "\n".join(lines) + "\n"


def _value(value: Scalar) -> str:
    return str(value) if isinstance(value, float) else json.dumps(value)


def _readme(name: str, challenge: Challenge, base: str) -> str:
    scores = ", ".join(f"{score} {percent:.2f}" for score, percent in challenge.scores.items())
    commands = "\n".join(
        command.replace("BASE", base, 1).replace("ADAPTER", "RUN/adapter", 1) for command in challenge.commands
    )
    more = ""
    if name == "code":
        more = """
It also needs Node.js 20, `g++` and the `main.py` of `github.com/yan-gao-GY/bigcode-evaluation-harness`, as its own
README says. It runs code that a model wrote: use a machine that you can lose.
"""
    return f"""\
# FlowerTune, {name} challenge

Made by `plait flowertune {name}` from {SOURCE}. Fixed by the challenge: the data set
`{challenge.data}`, {challenge.supernodes} SuperNodes, and the evaluation, unmodified. All else in `run.toml` is
the template's (base, rank, steps, {challenge.cohort} clients a round, 200 rounds) or plait's (1 bit per
parameter, clients find their learning rate), and yours to change.

## Run

```
pip install 'plait[qlora]'          # four bits need a CUDA device
hf auth login
plait estimate --config run.toml    # traffic, memory, time; reads the base's config from the hub
plait simulate --config run.toml --out RUN
```

On Flower's own engine, from a checkout of plait, which is a Flower app, with a SuperLink connection of
{challenge.supernodes} SuperNodes in Flower's configuration file (`flwr config list` says where it is):

```
[superlink.flowertune]
options.num-supernodes = {challenge.supernodes}
options.backend.client-resources.num-cpus = 6
options.backend.client-resources.num-gpus = 1.0
```
```
flwr run CHECKOUT flowertune --run-config run.toml --stream
```

## Communication

The challenge's budget is {BUDGET_MB:,} MB (of 1024² bytes) in both directions. `RUN/summary.json` has `uplink_bytes`
and `downlink_bytes`, counted on the wire with evaluations included; their sum over 1048576 is the figure to hand in.
`plait report RUN` shows them by round.

## Evaluate

```
git clone --depth=1 https://github.com/flwrlabs/flower.git
cd flower/benchmarks/flowertune-llm/evaluation/{challenge.folder}
pip install -r requirements.txt     # in a Python environment of its own
{commands}
```
{more}
Hand in every score. The template's, which an entry has to beat: {scores}; mean {challenge.mean:.2f}.
`RUN/adapter` is a PEFT directory.
"""
