"""Use a transformers `Trainer` (or TRL's `SFTTrainer`) as the local trainer, with ``--trainer my_trainer:build``.

``build(model, tokenizer, data, args)`` returns the trainer: `data` is a `datasets.Dataset` of ``input_ids`` and
``labels``, `args` a dict with the names of TrainingArguments. FedProx is a callback; the optimizer starts afresh every
round.
"""

import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from datasets import Dataset, disable_progress_bars
from peft import PeftModel
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from plait.errors import ConfigError, PartError
from plait.own_code import located_errors
from plait.plugins import Kind, find
from plait.rounds.local_model import StepReport
from plait.settings.choice import function_named, parse_choice
from plait.training.device import device_of
from plait.training.examples import Example, Tokenizer
from plait.training.learner import schedule_factor
from plait.training.local_model import OwnTrainer
from plait.wire.settings import Settings


class TrainerLike(Protocol):
    """The part of transformers' Trainer that every trainer needs; `add_callback` is used if there is one."""

    def train(self) -> object:
        """Train in place; the result has a `training_loss`."""
        ...


_TAKES = ("model", "tokenizer", "data", "args")
BuildTrainer = Callable[[PeftModel, Tokenizer, object, dict[str, object]], TrainerLike]


def load_own_trainer(where: str) -> OwnTrainer:
    """Find and wrap ``module:function``, with its options, or an installed trainer; ConfigError if none."""
    name, options = parse_choice(where)
    build = function_named(Kind.TRAINER, where, _TAKES) if options else find(Kind.TRAINER, name)
    return own_trainer(cast("BuildTrainer", build), name=name)


def own_trainer(build: BuildTrainer, *, name: str = "") -> OwnTrainer:
    """Wrap a function that builds a Trainer as plait's local trainer; `name` is for messages."""
    failed = f"trainer '{name or getattr(build, '__name__', type(build).__name__)}' failed"

    def train(
        model: PeftModel,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        settings: Settings,
        trained: Sequence[nn.Parameter],
    ) -> StepReport:
        disable_progress_bars()
        data = Dataset.from_dict(
            {
                "input_ids": [example.tokens.tolist() for example in examples],
                "labels": [example.labels.tolist() for example in examples],
            }
        )
        started = time.perf_counter()
        received = [parameter.detach().clone() for parameter in trained] if settings.proximal else []
        device = device_of(model)
        # A float32 adapter on a base in float16 needs a loss scale, which is the trainer's own.
        halves = device.type == "cuda" and any(x.dtype == torch.float16 for x in model.parameters())
        # Standard output is for plait's own results; a trainer's output goes to standard error.
        with (
            tempfile.TemporaryDirectory() as scratch,
            contextlib.redirect_stdout(sys.stderr),
            one_device(device),
        ):
            with located_errors(failed, quoting=False):
                arguments = training_arguments(settings, scratch, device.type, halves=halves)
                trainer = build(model, tokenizer, data, arguments)
            if not callable(getattr(trainer, "train", None)):
                given = type(trainer).__name__
                raise PartError(f"{failed}: it returned a {given}, expected what has train(), as transformers' Trainer")
            if remove := getattr(trainer, "remove_callback", None):
                remove(PrinterCallback)
            if settings.proximal:
                _add_proximal(trainer, trained, received, settings.proximal)
            with located_errors(failed, quoting=False):
                result = trainer.train()
        if (loss := getattr(result, "training_loss", None)) is None:
            raise PartError(f"{failed}: what its train() returned has no training_loss, a number")
        steps = settings.steps_taken * settings.gradient_accumulation_steps * settings.batch_size
        tokens = round(steps * sum(len(example.tokens) for example in examples) / len(examples))
        return StepReport(float(loss), tokens, time.perf_counter() - started, _first_loss(trainer))

    return train


def _first_loss(trainer: TrainerLike) -> float | None:
    """The loss that the trainer logged after its first step, if it keeps a log as transformers does."""
    log = getattr(getattr(trainer, "state", None), "log_history", None) or [{}]
    loss = log[0].get("loss")
    return float(loss) if isinstance(loss, (int, float)) and math.isfinite(loss) else None


def _add_proximal(
    trainer: TrainerLike, parameters: Sequence[nn.Parameter], received: Sequence[torch.Tensor], mu: float
) -> None:
    class Proximal(TrainerCallback):
        """Adds the gradient of FedProx's term, mu (w - w0)."""

        @torch.no_grad()
        def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
            for parameter, before in zip(parameters, received, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - before, alpha=mu)

    add = cast("Callable[[TrainerCallback], object] | None", getattr(trainer, "add_callback", None))
    if add is None:
        raise ConfigError(
            f"trainer is a {type(trainer).__name__} without callbacks, which proximal needs: use transformers' Trainer"
        )
    add(Proximal())


def training_arguments(settings: Settings, output_dir: str, device: str, *, halves: bool = False) -> dict[str, object]:
    """The run's settings under the names of transformers' TrainingArguments; nothing is saved or reported."""
    return {
        "output_dir": output_dir,
        "max_steps": settings.steps_taken,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        # A run's schedule, by the round: a trainer that starts again in each round cannot follow it by the step.
        "learning_rate": settings.learning_rate * schedule_factor(settings, settings.done_steps),
        "lr_scheduler_type": settings.lr_schedule if settings.lr_schedule_over == "round" else "constant",
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed % 2**32,
        "use_cpu": device == "cpu",
        **({"fp16": True} if halves else {}),
        "dataloader_pin_memory": device == "cuda",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
    }


_NAMED = "ACCELERATE_TORCH_DEVICE"


@contextlib.contextmanager
def one_device(device: torch.device) -> Generator[None]:
    """For a while, the settings of any trainer name this device and no other."""
    theirs = vars(TrainingArguments)["_setup_devices"].func

    def chosen(arguments: TrainingArguments) -> torch.device:
        theirs(arguments)  # begins accelerate's state, and takes the first GPU
        arguments._n_gpu = int(device.type != "cpu")  # pyright: ignore[reportPrivateUsage]
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    ours = cached_property(chosen)
    ours.__set_name__(TrainingArguments, "_setup_devices")
    before = os.environ.get(_NAMED)
    os.environ[_NAMED] = str(device)
    settings = cast("Any", TrainingArguments)
    honest, settings._setup_devices = vars(TrainingArguments)["_setup_devices"], ours
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield
    finally:
        settings._setup_devices = honest
        if before is None:
            del os.environ[_NAMED]
        else:
            os.environ[_NAMED] = before
