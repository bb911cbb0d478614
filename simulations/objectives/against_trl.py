"""The objectives step by step against TRL's trainers: same base, adapter, pairs and batches; losses and seconds a step.

    pip install ".[trl]"
    python simulations/objectives/against_trl.py [--base tiny] [--steps 8] [--pairs 64]
    python simulations/objectives/against_trl.py --data chatterbot --base smollm2-135m --objectives dpo

Everything in float32 on one device, plain LoRA, AdamW at one learning rate. TRL tokenises the text of the pairs itself.
TRL's ORPO adds the cross-entropy of prompt and reply, the paper's (and plait's) that of the reply: TRL's own
odds-ratio loss and log-probabilities are put together here as in the paper's equation 6. KTO's reference point needs
replies to other prompts, which TRL takes from the batch and plait from the client's data: TRL is given plait's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import torch
from datasets import Dataset as Rows
from run import write_pairs
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.data import as_dataset
from plait.features.objectives.examples import single_replies
from plait.features.objectives.named import formula_named
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute
from plait.training.examples import IGNORED, Split, tokenise
from plait.training.learner import TrainingInputs, order
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

HERE = Path(__file__).parent
BATCH, SEQ_LEN = 4, 64
SETTINGS = Settings(
    local_steps=1, batch_size=BATCH, gradient_accumulation_steps=1, seq_len=SEQ_LEN, learning_rate=2e-4,
    weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=8, seed=3, total_steps=8,
)  # fmt: skip
FORMULAS = ("dpo", "dpo:beta=0.3", "ipo", "orpo", "simpo", "kto")


class InOrder:
    """A trainer that takes its rows as they come, and keeps every step's loss."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, **options):
        """As the trainer's."""
        loss = super().compute_loss(model, inputs, return_outputs, **options)
        self.seen = [*getattr(self, "seen", []), float(loss)]
        return loss


class PaperORPO(ORPOTrainer):
    """TRL's parts, put together as equation 6: the reply's cross-entropy instead of prompt's and reply's."""

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        """As the trainer's, without figures."""
        del train_eval
        chosen, rejected, *_ = self.concatenated_forward(model, batch)
        ratios, *_ = self.odds_ratio_loss(chosen, rejected)
        return -chosen.mean() - ratios.mean(), {}


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **_):
        """Note the time."""
        del args, state, control
        self.ends.append(time.perf_counter())


def trl_losses(
    text: str, model, tokenizer, rows: Rows, unrelated: Sequence[Sequence[int]], steps: int
) -> tuple[list[float], list[float]]:
    """Losses and times of TRL's trainer for this objective."""
    name, _, options = text.partition(":")
    given = {key: float(value) for key, value in (part.split("=") for part in options.split(",") if part)}
    trainer_of, config_of, more = {
        "dpo": (DPOTrainer, DPOConfig, {}),
        "ipo": (DPOTrainer, DPOConfig, {"loss_type": "ipo"}),
        "orpo": (PaperORPO, ORPOConfig, {}),
        "simpo": (CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}),
        "kto": (KTOTrainer, KTOConfig, {}),
    }[name]
    with tempfile.TemporaryDirectory() as out:
        args = config_of(
            output_dir=out, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=SETTINGS.learning_rate,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=SETTINGS.max_grad_norm, report_to=[], seed=3,
            bf16=False, use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
            gradient_checkpointing=False, max_length=SEQ_LEN, **more, **given,
        )  # fmt: skip
        clock = Clock()
        trainer = type("Ours", (InOrder, trainer_of), {})(
            model=model, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[clock]
        )
        if unrelated:
            kept = trainer.train_dataset.remove_columns("KL_completion_ids")
            trainer.train_dataset = kept.add_column("KL_completion_ids", unrelated)
        begun = time.perf_counter()
        trainer.train()
    ends = [begun, *clock.ends]
    return trainer.seen, [after - before for before, after in pairwise(ends)]


def compare(located: LocatedBase, tokenizer, records: Sequence, kind, text: str, steps: int) -> dict[str, object]:
    """One objective, `steps` steps by both."""
    # Loaded anew for each objective: TRL leaves a second adapter on the model.
    compute = Compute(torch.device("cpu"), torch.float32)
    base = ResidentBase(located.directory, located.reference.fingerprint, compute, seq_len=SEQ_LEN)
    made = design(
        read_base_config(base.directory, Task.CAUSAL_LM), AdapterRequest(rank=8, alpha=16), task=Task.CAUSAL_LM, seed=11
    )
    examples = tokenise(
        records, kind=kind, task=Task.CAUSAL_LM, labels=(), tokenizer=tokenizer, seq_len=SEQ_LEN, objective=text
    )
    objective = formula_named(text)
    if objective.takes_one_reply:
        examples = list(single_replies(Split(tuple(examples), ())).train)
    settings = replace(SETTINGS, objective=text, local_steps=steps)
    model = base.carrying(made.spec, made.initial)
    losses: list[float] = []
    ends: list[float] = []

    def done(_step: int, loss: float) -> None:
        losses.append(loss)
        ends.append(time.perf_counter())

    train_steps(
        model,
        adapter_parameters(model, made.spec.layout),
        TrainingInputs(examples, settings, made.initial.flat),
        task=Task.CAUSAL_LM,
        pad_token=base.pad_token,
        on_step=done,
    )
    drawn = [examples[index] for index in islice(order(examples, settings.seed, Task.CAUSAL_LM), steps * BATCH)]
    rows = Rows.from_list([row_of(example, tokenizer, single=objective.takes_one_reply) for example in drawn])
    model = base.carrying(made.spec, made.initial)
    others = [example.sides[2] for example in drawn] if objective.takes_one_reply else []
    unrelated = [other.tokens[int((other.labels != IGNORED).argmax()) :].tolist() for other in others]
    # TRL's reply ends where its labels do; plait's sequences have the template's line break after that.
    unrelated = [ids[: int((other.labels != IGNORED).sum())] for ids, other in zip(unrelated, others, strict=True)]
    theirs, their_s = trl_losses(text, model, tokenizer, rows, unrelated, steps)
    own_s = [after - before for before, after in pairwise(ends)]
    return {
        "objective": text,
        "base": located.reference.name,
        "plait": losses,
        "trl": theirs,
        "largest_difference": max(abs(a - b) for a, b in zip(losses, theirs, strict=True)),
        "plait_s_a_step": sorted(own_s)[len(own_s) // 2],
        "trl_s_a_step": sorted(their_s[1:])[len(their_s[1:]) // 2],
    }


def row_of(example, tokenizer, *, single: bool) -> dict[str, object]:
    """The text of an example, as TRL's trainers take it."""

    def text(side) -> tuple[str, str]:
        counted = [at for at, label in enumerate(side.labels) if label != IGNORED]
        asked, said = side.tokens[: counted[0]], side.tokens[counted[0] : counted[-1] + 1]
        return tokenizer.decode(asked), tokenizer.decode(said)

    chosen, rejected, *_ = example.sides
    if single:
        prompt, said = text(chosen or rejected)
        return {"prompt": prompt, "completion": said, "label": chosen is not None}
    return {"prompt": text(chosen)[0], "chosen": text(chosen)[1], "rejected": text(rejected)[1]}


def pairs_of_words() -> list[dict[str, str]]:
    """Two words, in the other order or cut short."""
    words = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "moon"]
    return [
        {"prompt": f"{a} {b}", "chosen": f"{b} {a} {number}", "rejected": f"{a} {number}"}
        for number, (a, b) in enumerate((a, b) for a in words for b in words if a != b)
    ]


def pairs_of_chatterbot() -> list[dict[str, str]]:
    """The first pairs of run.py's English client, replies of one line alone: TRL strips no line breaks."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_pairs(Path(folder) / "pairs.jsonl", ["english"], contradict=False)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    sides = ("prompt", "chosen", "rejected")
    return [{side: row[side] for side in sides} for row in rows if not any("\n" in row[side] for side in sides)]


def main() -> None:
    """Compare, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--data", choices=("words", "chatterbot"), default="words", help="chatterbot: those of run.py")
    parser.add_argument("--objectives", nargs="*", default=FORMULAS)
    args = parser.parse_args()
    located = locate_base(args.base)
    tokenizer = AutoTokenizer.from_pretrained(located.directory, trust_remote_code=False)
    # TRL ends every reply of text with it, as the chat template does.
    tokenizer.eos_token, tokenizer.bos_token = "<|im_end|>", None
    pairs = as_dataset((pairs_of_words() if args.data == "words" else pairs_of_chatterbot())[: args.pairs])
    name = args.base if args.data == "words" else f"{args.base}-{args.data}"
    with (HERE / f"results-trl-{name}.jsonl").open("w") as file:
        for text in args.objectives:
            found = compare(located, tokenizer, pairs.records, pairs.kind, text, args.steps)
            file.write(json.dumps(found) + "\n")
            print(
                f"{text:14} largest difference {found['largest_difference']:.1e} of losses from {found['trl'][0]:.3f}, "
                f"{found['plait_s_a_step']:.3f} s a step, TRL {found['trl_s_a_step']:.3f} s"
            )


if __name__ == "__main__":
    main()
