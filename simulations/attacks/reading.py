"""What a server can read of a client's text: python simulations/attacks/reading.py (see README.md).

Every attack is a line in reading.jsonl. The client is a node with its own code and its own checks; the server sends
what it likes, as far as the protocol can carry it.

- rows: rank 1 on the embedding and the output layer, one step over one pair of tokens: the rows that move are the pair.
- span: the gradients of the first block's A lie in the span of the embeddings of the tokens that were read (DAGER,
  arXiv 2405.15586). AdamW's steps hide that, unless gradients are far below its epsilon: then a step is the gradient.
  A server makes them so by the factors that it sends. Where fewer rows come back than tokens were read, tokens are
  picked one after the other by how much of the rows they explain (simultaneous orthogonal matching pursuit).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from attacks.victim import HostileServer, Victim  # noqa: E402

from plait.adapters import AdapterState, Float32  # noqa: E402
from plait.config import Scalar  # noqa: E402
from plait.errors import PlaitError  # noqa: E402
from plait.run import blueprint_of  # noqa: E402
from plait.training.blueprint import AdapterTemplate  # noqa: E402
from plait.wire.messages import DescribeTask, Refusal, RefusalReason, Reply, TrainTask  # noqa: E402

SECRET = (
    "The vault in Geneva opens with seven-blue-heron-41. Mira Okafor holds the second key until the ninth of May, "
    "and nobody else at the clinic may know the name of patient 20771, Tomas Lindqvist."
)


@dataclass(frozen=True)
class Reading:
    """What an attack got.

    Attributes:
        attack: its name and its variant.
        base: whose tokens.
        secret: different tokens (or pairs) that the client trained on.
        guessed: how many the server named.
        right: how many of those are in the secret.
        by_chance: how many would have been by naming the most frequent ones of other text.
        tasks: that the server sent.
        refused: how many of them the node refused.
        why: what the node said the first time.
    """

    attack: str
    base: str
    secret: int
    guessed: int
    right: int
    by_chance: int
    tasks: int
    refused: int
    why: str = ""

    def row(self) -> str:
        """A row of the table."""
        precision = f"{100 * self.right / self.guessed:.0f} %" if self.guessed else "-"
        return (
            f"| {self.attack} | {self.base} | {self.right} of {self.secret} | {precision} | {self.by_chance} | "
            f"{self.tasks - self.refused} of {self.tasks} |"
        )


HEADER = "| Attack | Base | Recovered | Right among the guessed | By chance | Tasks done |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Span:
    """A variant of the span attack.

    Attributes:
        name: for the table.
        run: what the welcome says.
        sequences: that the client has to train on; all are visited once in a round.
        rounds: how often the same client is asked.
        gentle: whether the server sends factors that keep AdamW's steps proportional to gradients.
    """

    name: str
    run: Mapping[str, Scalar]
    sequences: int
    rounds: int = 1
    gentle: bool = False


DEFAULT: Mapping[str, Scalar] = {"rank": 8, "local-steps": 4, "batch-size": 4, "seq-len": 128, "personalize": 0}
SMALL: Mapping[str, Scalar] = {**DEFAULT, "local-steps": 1, "batch-size": 1}
# The least that the default policy takes.
LEAST: Mapping[str, Scalar] = {**DEFAULT, "local-steps": 1, "batch-size": 8}
EXACT: Mapping[str, Scalar] = {"bits": "fp32"}
# Rounds that train A alone; a rule of plait's own.
ONLY_A: Mapping[str, Scalar] = {"rule": "rolora"}

# Every step reads one pair.
PAIRS: Mapping[str, object] = {
    "seq_len": 2, "local_steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "bits": "fp32"
}  # fmt: skip
ROWS: Mapping[str, Mapping[str, Scalar]] = {
    "rows, behind an honest run": {**DEFAULT, **EXACT},
    "rows, announced": {
        **EXACT, "rank": 1, "target-modules": "embed_tokens", "local-steps": 1, "batch-size": 1, "seq-len": 8,
        "personalize": 0,
    },
}  # fmt: skip
SPANS = (
    Span("4 x 4 x 128 tokens, defaults (1 bit)", DEFAULT, 16),
    Span("4 x 4 x 128 tokens, fp32", {**DEFAULT, **EXACT}, 16),
    Span("4 x 4 x 128, fp32, made linear", {**DEFAULT, **EXACT, **ONLY_A}, 16, gentle=True),
    Span("4 x 4 x 128, fp32, made linear, 8 rounds", {**DEFAULT, **EXACT, **ONLY_A}, 16, rounds=8, gentle=True),
    Span("4 x 4 x 128, fp32, made linear, rank 64", {**DEFAULT, **EXACT, **ONLY_A, "rank": 64}, 16, gentle=True),
    Span("4 x 4 x 128, 1 bit, made linear, rank 64", {**DEFAULT, **ONLY_A, "rank": 64}, 16, gentle=True),
    Span("1 x 8 x 128, fp32, made linear, rank 256", {**LEAST, **EXACT, **ONLY_A, "rank": 256}, 8, gentle=True),
    Span("1 x 1 x 128, defaults (1 bit)", SMALL, 1),
    Span("1 x 1 x 128, fp32", {**SMALL, **EXACT}, 1),
    Span("1 x 1 x 128, fp32, made linear", {**SMALL, **EXACT, **ONLY_A}, 1, gentle=True),
    Span("1 x 1 x 128, fp32, made linear, rank 64", {**SMALL, **EXACT, **ONLY_A, "rank": 64}, 1, gentle=True),
    Span("1 x 1 x 128, 1 bit, made linear, rank 64", {**SMALL, **ONLY_A, "rank": 64}, 1, gentle=True),
)


class Refusals:
    """Counts what was asked and what was refused."""

    def __init__(self) -> None:
        self.tasks = self.refused = 0
        self.why = ""

    def of(self, reply: Reply) -> Reply:
        """Note a reply."""
        self.tasks += 1
        if isinstance(reply, Refusal):
            self.refused += 1
            self.why = self.why or f"{reply.reason.name}: {reply.detail}"
        return reply


def rows(base: str, name: str, run: Mapping[str, Scalar], folder: Path) -> Reading:
    """Rank 1 on the embedding and the output layer, one pair of tokens a task, examples picked by the task's seed.

    Args:
        base: of the run.
        name: of the variant.
        run: what the welcome says of the run; tasks say what the attack needs.
        folder: the client's.
    """
    announced = {"base": base, **run}
    server = HostileServer(announced)
    spec = {
        "init_seed": 0,
        "labels": [],
        "method": "lora",
        "peft_config": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": 1,
            "lora_alpha": 1,
            "target_modules": ["embed_tokens", "lm_head"],
        },
        "task": "causal-lm",
    }
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    ids = server.base.tokenizer([SECRET], add_special_tokens=False)["input_ids"][0]
    secret = [(ids[at], ids[at + 1]) for at in range(0, len(ids) - 1, 2)]
    noted, found = Refusals(), []
    try:
        victim = Victim(folder, [SECRET, SECRET[:40]], announced)
        blueprint = server.base.prepare(text)
    except PlaitError as error:
        noted.of(refusal_of(error))
        return Reading(name, base, len(set(secret)), 0, 0, 0, noted.tasks, noted.refused, noted.why)
    card = noted.of(victim.ask(DescribeTask(server.settings(1, **PAIRS), text)))
    examples = len(secret) if isinstance(card, Refusal) else card.train_examples
    for wanted in range(min(examples, len(secret))):
        settings = server.settings(1, **PAIRS, seed=seed_that_begins_with(wanted, examples))
        reply = noted.of(victim.ask(TrainTask(settings, server.broadcast(blueprint, blueprint.initial, 1))))
        if (delta := server.delta_in(reply, blueprint)) is not None:
            found.append(pair_in(delta))
    right = sum((Counter(secret) & Counter(found)).values())
    return Reading(name, base, len(secret), len(found), right, 0, noted.tasks, noted.refused, noted.why)


def seed_that_begins_with(wanted: int, examples: int) -> int:
    """A seed whose order of this many examples begins with that one."""
    return next(seed for seed in range(10**6) if np.random.default_rng(seed).permutation(examples)[0] == wanted)


def pair_in(delta: AdapterState) -> tuple[int, int]:
    """The token whose embedding moved, and the one whose output row moved against all others."""
    before = next(values for name, values in delta.items() if "lora_embedding_A" in name).ravel()
    after = next(values for name, values in delta.items() if "lm_head" in name and "lora_B" in name).ravel()
    alone = 1.0 if (after > 0).sum() < (after < 0).sum() else -1.0
    return int(np.abs(before).argmax()), int((alone * after).argmax())


def span(base: str, variant: Span, folder: Path) -> Reading:
    """Which tokens the rows of the first block's A are made of."""
    server = HostileServer({"base": base, **variant.run})
    seq_len = server.run.config.seq_len
    held_out = max(1, round(variant.sequences * server.run.config.held_out_fraction))
    text = read_text(server, (variant.sequences + held_out) * seq_len)
    own = server.base.tokenizer([text], add_special_tokens=False)["input_ids"][0]
    secret = set(own[: variant.sequences * seq_len])
    common = [token for token, _ in Counter(public_tokens(server)).most_common(len(secret))]
    chance = len(secret.intersection(common))
    noted, gathered = Refusals(), []
    try:
        victim = Victim(folder, [text], {"base": base, **variant.run})
    except PlaitError as error:
        noted.of(refusal_of(error))
        return Reading(f"span, {variant.name}", base, len(secret), 0, 0, chance, noted.tasks, noted.refused, noted.why)
    blueprint = prepared(server)
    noted.of(victim.ask(DescribeTask(server.settings(0), blueprint.spec.text)))
    # RoLoRA trains A in every second round.
    for number in range(1, 2 * variant.rounds + 1) if variant.gentle else range(1, variant.rounds + 1):
        settings = server.settings(number)
        if variant.gentle and settings.trained != "A":
            continue
        state = gentle(blueprint, number) if variant.gentle else blueprint.initial
        task = TrainTask(settings, server.broadcast(blueprint, state, number))
        delta = server.delta_in(noted.of(victim.ask(task)), blueprint)
        if delta is not None:
            gathered.append(rows_of_first_block(delta))
    guess = tokens_in(np.concatenate(gathered), inputs_of_first_block(server), len(secret)) if gathered else []
    right = len(secret.intersection(guess))
    return Reading(
        f"span, {variant.name}", base, len(secret), len(guess), right, chance, noted.tasks, noted.refused, noted.why
    )


def prepared(server: HostileServer) -> AdapterTemplate:
    """The adapter of the announced run."""
    return blueprint_of(server.run.settled, server.base.directory)


def gentle(blueprint: AdapterTemplate, seed: int) -> AdapterState:
    """Factors so small that AdamW's epsilon is what divides: its steps are the gradients, scaled."""
    random = np.random.default_rng(seed)
    arrays = {
        name: random.normal(scale=1e-9 if "lora_B" in name else 1e-4, size=values.shape).astype(np.float32)
        for name, values in blueprint.initial.items()
    }
    return AdapterState.from_tensors(blueprint.spec.layout, arrays)


def rows_of_first_block(delta: AdapterState) -> Float32:
    """(rows, width) what queries, keys and values of the first block moved by in A."""
    wanted = (
        "layers.0.self_attn.q_proj.lora_A",
        "layers.0.self_attn.k_proj.lora_A",
        "layers.0.self_attn.v_proj.lora_A",
    )
    return np.concatenate([values for name, values in delta.items() if any(each in name for each in wanted)])


def inputs_of_first_block(server: HostileServer) -> Float32:
    """(vocabulary, width) what every token looks like to the first block, of unit length."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        server.base.directory, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    with torch.no_grad():
        seen = model.model.layers[0].input_layernorm(model.get_input_embeddings().weight).numpy()
    return seen / np.linalg.norm(seen, axis=1, keepdims=True)


def tokens_in(rows_seen: Float32, inputs: Float32, count: int) -> list[int]:
    """The `count` tokens that explain the rows best.

    Args:
        rows_seen: (rows, width) each a sum over tokens.
        inputs: (vocabulary, width) of unit length.
        count: how many to name.
    """
    scaled = rows_seen.astype(np.float64)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True) + 1e-300
    _, sizes, directions = np.linalg.svd(scaled, full_matrices=False)
    rank = int((sizes > 1e-4 * sizes[0]).sum())
    if count <= rank and count < 0.9 * inputs.shape[1]:
        inside = np.linalg.norm(inputs @ directions[:count].T, axis=1)
        return np.argsort(-inside)[:count].tolist()
    # Fewer rows than tokens: greedily, the rows' rest projected off what was picked.
    weighted = (sizes[:, None] * directions)[: max(rank, 1)]
    explained, unseen = inputs @ weighted.T, np.ones(len(inputs))
    picked: list[int] = []
    basis = np.zeros((0, inputs.shape[1]))
    for _ in range(min(count, inputs.shape[1])):
        score = np.linalg.norm(explained, axis=1) / np.sqrt(np.maximum(unseen, 1e-3))
        score[picked] = -1.0
        best = int(score.argmax())
        picked.append(best)
        new = inputs[best] - (inputs[best] @ basis.T) @ basis
        if (length := np.linalg.norm(new)) > 1e-4:
            new = new / length
            basis = np.concatenate([basis, new[None]])
            along = inputs @ new
            explained = explained - np.outer(along, weighted @ new)
            unseen = unseen - np.square(along)
    return picked


def read_text(server: HostileServer, tokens: int) -> str:
    """The client's text: this many tokens of a module of the standard library."""
    import textwrap

    source = Path(textwrap.__file__).read_text()
    ids = server.base.tokenizer([source], add_special_tokens=False)["input_ids"][0]
    return decode(server, ids[:tokens])


def decode(server: HostileServer, ids: Sequence[int]) -> str:
    """Text of tokens."""
    return server.base.tokenizer.decode(list(ids))  # pyright: ignore[reportAttributeAccessIssue]


def public_tokens(server: HostileServer) -> list[int]:
    """Tokens of text like the client's that everybody has."""
    import argparse as another

    return server.base.tokenizer([Path(another.__file__).read_text()], add_special_tokens=False)["input_ids"][0]


def refusal_of(error: PlaitError) -> Refusal:
    """A node that does not even make ready."""
    return Refusal("victim", RefusalReason.FAILED, str(error))


def readings(base: str, wanted: str) -> Iterator[Reading]:
    """Every attack whose name has `wanted` in it."""
    with tempfile.TemporaryDirectory() as folder:
        if wanted in "rows":
            for name, run in ROWS.items():
                yield rows(base, name, run, Path(folder) / name)
        for number, variant in enumerate(SPANS):
            if wanted in f"span, {variant.name}":
                yield span(base, variant, Path(folder) / str(number))


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--results", type=Path, default=HERE / "reading.jsonl")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    print(HEADER)
    for reading in readings(options.base, options.only):
        with options.results.open("a") as file:
            file.write(json.dumps({"commit": commit, **asdict(reading)}) + "\n")
        print(reading.row(), flush=True)
        if reading.why:
            print(f"  {reading.why}", file=sys.stderr)


if __name__ == "__main__":
    main()
