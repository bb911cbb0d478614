"""Ways to train a low-rank adapter (or the whole model) for some steps: plait's, and those that others would write.

All start from the same base and the same adapter, and step on the same sequences at the same learning rate, so their
losses are comparable. Knows no clock and no memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments, default_data_collator

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.rounds.local_model import Carried
from plait.training.blueprint import AdapterTemplate, design, read_base_config
from plait.training.device import DTYPES, Compute
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.losses import BatchLoss
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Workload:
    """What is trained, on which base; all linear layers have an adapter."""

    directory: Path
    fingerprint: str
    device: str
    dtype: str
    threads: int
    batch_size: int = 4
    seq_len: int = 128
    rank: int = 8
    learning_rate: float = 1e-4
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch_size * self.seq_len

    @property
    def compute(self) -> Compute:
        """Device and type."""
        return Compute(torch.device(self.device), DTYPES[self.dtype])

    def examples(self) -> list[Example]:
        """One batch; every step uses all of it."""
        words = read_base_config(self.directory, AdapterTask.CAUSAL_LM).vocab_size
        shape = (self.batch_size, self.seq_len)
        rows = np.random.default_rng(self.seed).integers(0, words, shape).astype(np.int32)
        return [Example(row, row) for row in rows]

    def blueprint(self) -> AdapterTemplate:
        """The adapter and its initial values."""
        config = read_base_config(self.directory, AdapterTask.CAUSAL_LM)
        request = AdapterRequest(rank=self.rank, alpha=2.0 * self.rank)
        return design(config, request, task=AdapterTask.CAUSAL_LM, seed=self.seed)


# Takes this many steps and returns the loss of the last one, computed before it.
Way = Callable[[int], float]


def plait(work: Workload) -> Way:
    """A client's round: load the adapter into the resident base, train, take the adapter out."""
    design, examples = work.blueprint(), work.examples()
    base = ResidentBase(work.directory, work.fingerprint, work.compute, seq_len=work.seq_len)
    state, moments = design.initial, None

    def way(steps: int) -> float:
        nonlocal state, moments
        model = base.with_adapter(design.spec, state)
        last: list[float] = []
        done = train_steps(
            model,
            adapter_parameters(model, design.spec.layout),
            TrainingInputs(examples, _settings(work, steps), state, Carried(moments=moments)),
            on_step=lambda _, loss: last.append(loss),
        )
        state, moments = done.state, done.moments
        return last[-1]

    return way


def peft(work: Workload, *, dtype: str, float32_adapter: bool, attention: str) -> Way:
    """The loop that PEFT's documentation shows."""
    model = _peft_model(work, dtype=dtype, float32_adapter=float32_adapter, attention=attention)
    return _loop(work, model, [parameter for parameter in model.parameters() if parameter.requires_grad])


def trainer(work: Workload, *, dtype: str, attention: str) -> Way:
    """Transformers' Trainer on a PEFT model, with the adapter in the base's type."""
    model = _peft_model(work, dtype=dtype, float32_adapter=False, attention=attention)
    rows = [{"input_ids": torch.from_numpy(e.tokens.astype(np.int64))} for e in work.examples()]
    data = [row | {"labels": row["input_ids"]} for row in rows]
    # One optimizer for all calls, as in the other ways.
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=work.learning_rate,
        weight_decay=0,
    )

    def way(steps: int) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch, max_steps=steps, per_device_train_batch_size=work.batch_size,
                learning_rate=work.learning_rate, lr_scheduler_type="constant", max_grad_norm=_CLIP_NORM,
                use_cpu=work.device == "cpu", dataloader_pin_memory=work.device != "cpu", disable_tqdm=True,
                logging_strategy="steps", logging_steps=steps, save_strategy="no", report_to="none", seed=work.seed,
            )  # fmt: skip
            losses: list[float] = []
            own = _Quiet(
                model=model,
                args=arguments,
                train_dataset=cast("Any", data),
                data_collator=default_data_collator,
                optimizers=(optimizer, None),
            )
            own.heard = losses
            own.train()
        return losses[-1]

    return way


class _Quiet(Trainer):
    """Keeps each step's loss and prints nothing."""

    heard: list[float]

    def log(self, *_: object, **__: object) -> None:
        pass

    def training_step(self, *inputs: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*inputs, **options)
        self.heard.append(loss.item())
        return loss


def full(work: Workload, *, dtype: str) -> Way:
    """All weights of the base."""
    model = _base(work, dtype=dtype, attention="sdpa")
    return _loop(work, model, list(model.parameters()))


def inference(work: Workload) -> Way:
    """No training at all: the loss of the batch, as plait evaluates it."""
    design, examples = work.blueprint(), work.examples()
    base = ResidentBase(work.directory, work.fingerprint, work.compute, seq_len=work.seq_len)
    model = base.with_adapter(design.spec, design.initial)
    loss = BatchLoss(model.eval())

    @torch.no_grad()
    def way(steps: int) -> float:
        return [loss(examples).item() for _ in range(steps)][-1] / (work.tokens - work.batch_size)

    return way


_HALF = "bfloat16"
PEERS: Mapping[str, Callable[[Workload], Way]] = {
    "PEFT, float32": lambda work: peft(work, dtype="float32", float32_adapter=True, attention="sdpa"),
    "PEFT, bfloat16 base": lambda work: peft(work, dtype=_HALF, float32_adapter=True, attention="sdpa"),
    "PEFT, bfloat16 adapter too": lambda work: peft(work, dtype=_HALF, float32_adapter=False, attention="sdpa"),
    "PEFT, bfloat16 adapter too, eager attention": lambda work: peft(
        work, dtype=_HALF, float32_adapter=False, attention="eager"
    ),
    "transformers Trainer, bfloat16 adapter too": lambda work: trainer(work, dtype=_HALF, attention="sdpa"),
}
WAYS: Mapping[str, Callable[[Workload], Way]] = {
    "plait": plait,
    "inference": inference,
    "full fine-tuning, float32": lambda work: full(work, dtype="float32"),
    "full fine-tuning, bfloat16": lambda work: full(work, dtype=_HALF),
    **PEERS,
}


def multiplied_parameters(work: Workload) -> int:
    """Weights that every token is multiplied with: those of linear layers, the head's among them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            read_base_config(work.directory, AdapterTask.CAUSAL_LM), trust_remote_code=False
        )
    return sum(module.weight.numel() for module in cast("nn.Module", model).modules() if isinstance(module, nn.Linear))


def _settings(work: Workload, steps: int) -> Settings:
    return Settings(
        local_steps=steps, batch_size=work.batch_size, gradient_accumulation_steps=1, seq_len=work.seq_len,
        learning_rate=work.learning_rate, weight_decay=0.0, max_grad_norm=_CLIP_NORM, held_out_fraction=0.1,
        max_held_out_sequences=1, seed=work.seed,
    )  # fmt: skip


def _base(work: Workload, *, dtype: str, attention: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        work.directory,
        dtype=DTYPES[dtype],
        attn_implementation=attention,
        local_files_only=True,
        trust_remote_code=False,
    )
    return cast("PreTrainedModel", model).to(torch.device(work.device)).train()  # pyright: ignore[reportArgumentType, reportCallIssue]


def _peft_model(work: Workload, *, dtype: str, float32_adapter: bool, attention: str) -> PeftModel:
    design = work.blueprint()
    config = LoraConfig(
        r=work.rank, lora_alpha=2 * work.rank, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    base = _base(work, dtype=dtype, attention=attention)
    model = cast("PeftModel", get_peft_model(base, config, autocast_adapter_dtype=float32_adapter))
    parameters = adapter_parameters(model, design.spec.layout)
    flat = torch.from_numpy(design.initial.flat.copy())
    with torch.no_grad():
        for parameter, values in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(values.view_as(parameter))
    return model.train()


def _loop(work: Workload, model: nn.Module, parameters: Sequence[nn.Parameter]) -> Way:
    optimizer = torch.optim.AdamW(parameters, lr=work.learning_rate, weight_decay=0)
    rows = np.stack([example.tokens for example in work.examples()]).astype(np.int64)
    tokens = torch.from_numpy(rows).to(torch.device(work.device))

    def way(steps: int) -> float:
        last = float("nan")
        for _ in range(steps):
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            last = loss.item()
        return last

    return way
