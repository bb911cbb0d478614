"""What every entrant is given: the configuration, the same sequences in the same order, one training step, one counter.

An entrant's `run.py CONFIGURATION OUT` reads the configuration, and leaves in OUT `adapter-N/`, a PEFT directory, after
round N; `rounds.jsonl`, when that was; and `wire.jsonl`, a line per message. Knows no entrant.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load, load_file, save
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
State = dict[str, torch.Tensor]
FIELDS = ("tokens", "labels", "mask")
EVERYBODY = ""
"""Instead of a client's name, where all data are in one place."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences, padded on the right: tokens and mask (n, length), labels (n, length) or, of classes, (n, 1)."""

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, paths: list[str], part: str) -> Batch:
        """The `train` or `held_out` of clients."""
        found = [load_file(path) for path in paths]
        return cls(*(torch.cat([each[f"{part}.{field}"] for each in found]).long() for field in FIELDS))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a model of transformers is called with, as short as these sequences are."""
        length = int(self.mask[chosen].sum(1).max())
        return {
            "input_ids": self.tokens[chosen, :length], "labels": self.labels[chosen, :length],
            "attention_mask": self.mask[chosen, :length],
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """A cell of the table, as an entrant sees it.

    Attributes:
        told: the configuration: base, clients, rounds, per_round, steps, batch, seq_len, rank, alpha, targets,
            classes (0 for text), dtype, threads, seed, learning_rate (null for the entrant's own), variant, and plait's
            settings for the same sequences.
        out: the folder to leave results in.
    """

    told: Mapping[str, Any]
    out: Path

    @classmethod
    def from_arguments(cls) -> Work:
        """Of this process."""
        work = cls(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).absolute())
        torch.set_num_threads(work.told["threads"])
        return work

    @cached_property
    def clients(self) -> list[str]:
        """Their names, in the order they work."""
        return [client["name"] for client in self.told["clients"]]

    def cohort(self, number: int) -> list[str]:
        """The clients of a round, where some are away; for entrants that do not draw them on their own."""
        draw = torch.Generator().manual_seed(self.told["seed"] * 1_000_003 + number)
        chosen = torch.randperm(len(self.clients), generator=draw)[: self.told["per_round"]]
        return [self.clients[index] for index in sorted(chosen.tolist())]

    def sequences(self, client: str, part: str = "train") -> Batch:
        """A client's `train` or `held_out`; or everybody's."""
        return Batch.of(
            [each["sequences"] for each in self.told["clients"] if client in (EVERYBODY, each["name"])], part
        )

    def model(self) -> Any:
        """The base with a fresh adapter."""
        torch.manual_seed(self.told["seed"])
        config = LoraConfig(
            r=self.told["rank"], lora_alpha=self.told["alpha"], target_modules=self.told["targets"],
            task_type="SEQ_CLS" if self.told["classes"] else "CAUSAL_LM",
        )  # fmt: skip
        return get_peft_model(base_of(self.told), config)

    def train(self, model: Any, state: State, client: str, number: int, rate: float) -> tuple[State, float]:
        """A client's steps of a round: AdamW and clipping at 1, as transformers' Trainer takes them.

        Returns:
            The adapter after them, and the mean loss.
        """
        set_peft_model_state_dict(model, state)
        given, batch = self.sequences(client), self.told["batch"]
        draw = torch.Generator().manual_seed(self.told["seed"] * 1_000_003 + number)
        order = torch.randperm(len(given), generator=draw).repeat(-(-self.told["steps"] * batch // len(given)))
        learned = [each for each in model.parameters() if each.requires_grad]
        optimizer, losses = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0), []
        model.train()
        for chosen in order.split(batch)[: self.told["steps"]]:
            loss = model(**given[chosen]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return self.spoiled(client, number, state, state_of(model)), sum(losses) / len(losses)

    def spoiled(self, client: str, number: int, before: State, after: State) -> State:
        """What a client learned, as a faulty one sends it: only where the configuration has a `fault`."""
        fault = self.told.get("fault")
        if not fault or (client, number) != (fault["client"], fault["round"]):
            return after
        if fault["kind"] == "stalled":
            time.sleep(3600)
        factor = {"nan": math.nan, "scaled": 1000.0}.get(fault["kind"], 1.0)
        return {name: before[name] + factor * (after[name] - before[name]) for name in after}

    def sent(self, number: int, client: str, direction: str, payload: bytes) -> bytes:
        """Count a message of a round, `up` or `down`, as it is handed to a transport."""
        self._note("wire.jsonl", {"round": number, "client": client, "direction": direction, "bytes": len(payload)})
        return payload

    def finished(self, number: int, state: State) -> None:
        """Keep the adapter after a round; 0 is the beginning."""
        self.keep(f"adapter-{number}", state)
        self.ended(number)

    def keep(self, name: str, state: State) -> None:
        """Keep an adapter; `own/CLIENT` is a client's own."""
        set_peft_model_state_dict(self._kept_model, state)
        self._kept_model.save_pretrained(self.out / name)

    def ended(self, number: int) -> None:
        """Say that a round has ended."""
        self._note("rounds.jsonl", {"round": number, "time": time.time()})

    @cached_property
    def _kept_model(self) -> Any:
        return self.model()

    def _note(self, name: str, line: Mapping[str, object]) -> None:
        # One write, as an entrant's clients may be processes of their own.
        file = os.open(self.out / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, (json.dumps(line) + "\n").encode())
        os.close(file)


def base_of(told: Mapping[str, Any]) -> Any:
    """The base, with a fresh head of the same values for all where there are classes."""
    torch.manual_seed(told["seed"])
    base, dtype, classes = told["base"], getattr(torch, told["dtype"]), told["classes"]
    if classes:
        return AutoModelForSequenceClassification.from_pretrained(
            base, dtype=dtype, num_labels=classes, trust_remote_code=False
        )
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, trust_remote_code=False)


def state_of(model: Any) -> State:
    """The adapter's tensors."""
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def mean(states: list[State], weights: list[float]) -> State:
    """The weighted mean of adapters."""
    total = sum(weights)
    return {
        name: torch.stack([state[name] * (weight / total) for state, weight in zip(states, weights, strict=True)]).sum(
            0
        )
        for name in states[0]
    }


def cosine(number: int, rounds: int, highest: float, lowest: float) -> float:
    """The rate of a round, 1 to `rounds`, as FlowerTune's `cosine_annealing`."""
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * number / rounds)) / 2


__all__ = ["EVERYBODY", "Batch", "State", "Work", "base_of", "cosine", "load", "mean", "save", "state_of"]
