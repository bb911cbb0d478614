"""Held-out loss of a base with and without an adapter, on any data: what `plait eval` and `plait.evaluate` share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from plait.adapters.peft_reading import PeftAdapter, load_peft_directory
from plait.api import TURN
from plait.api.received import leads_out, options
from plait.api.settings import base_name, dataset_of
from plait.errors import ConfigError
from plait.objectives import SFT, usual_objective
from plait.plugins import admit
from plait.report.terminal import status
from plait.rounds.evaluation import ClientLoss, wilson
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.system.text import Json
from plait.training.bases import LocatedBase, locate_named_base, quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluationResult:
    """A base and an adapter on the same sequences.

    Attributes:
        base_name: name or directory of the base.
        objective: the objective of the loss: ``sft``, or one of preferences.
        base: the base alone: its ``loss`` (mean cross-entropy in nats, over tokens or, for classification, examples),
            ``margin`` (half of its 95 % interval), ``tokens``, ``examples`` (sequences) and ``correct`` answers;
            of preferences also ``reward_margin``.
        adapter: the same with the adapter, and its ``change`` since the base with ``change_margin``, compared sequence
            by sequence.
    """

    base_name: str
    data: str
    objective: str
    base: ClientLoss
    adapter: ClientLoss

    @property
    def figures(self) -> Mapping[str, Mapping[str, Json]]:
        """What ``plait eval --json`` prints, under ``base`` and ``adapter``; unknown figures are left out."""
        return {"base": _figures(self.base), "adapter": _figures(self.adapter)}


class EvaluationSizes(TypedDict, total=False):
    """How much is evaluated, and how much at a time."""

    seq_len: int
    """Tokens per sequence, at least 8; by default 128."""
    batch_size: int
    """Sequences per batch; by default 4."""
    max_sequences: int
    """Most sequences (preferences) to evaluate, spread evenly over the data; by default 64."""


def evaluate(
    adapter: str | PathLike[str],
    data: object,
    *,
    columns: str | Mapping[str, str] = "",
    split: str = "",
    base: str | PathLike[str] | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    objective: str = "",
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
    **sizes: Unpack[EvaluationSizes],
) -> EvaluationResult:
    """Evaluate a base with and without an adapter.

    Args:
        adapter: a PEFT directory, a run directory or a run.
        columns: which columns hold what, if they do not have the usual names, as for `plait.simulate`.
        split: the split to evaluate on; by default ``validation`` or ``test``, if there is one.
        base: a name, a directory, or a model in memory, if the adapter names none that is available.
        objective: whose loss and rewards measure preferences; by default the run's, else ``dpo``.
        device: to compute on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: of the frozen base: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        quiet: whether to show no progress.
        sizes: ``seq_len``, ``batch_size`` and ``max_sequences``; see `EvaluationSizes`.

    Raises:
        ConfigError: an argument is not valid, there is no adapter, or its base is unknown.
        BaseMismatchError: the adapter was trained on another base.
        DataError: the data are not valid, or shorter than a sequence.
        PeerError: the adapter's directory is not valid.
    """
    for key, least in (("seq_len", 8), ("batch_size", 1), ("max_sequences", 1)):
        if sizes.get(key, least) < least:
            raise ConfigError(f"{key} is {sizes[key]}, expected at least {least}")
    folder, of_run = Path(adapter), RunDirectory(Path(adapter)).adapter
    admit(objective)
    chosen = objective or _objective_of(folder)
    loaded = load_peft_directory(of_run if of_run.is_dir() else folder)
    with status("loading libraries", quiet=quiet):
        from plait.training.device import choose_compute
        from plait.training.evaluation import evaluate_adapter

    quiet_libraries()
    compute = choose_compute(device, dtype)
    with status("reading the data", quiet=quiet) as progress:
        dataset = dataset_of(data, columns=columns, split=split, progress=progress)
    usual = usual_objective(dataset.kind.value) or SFT
    # A run of preferences can be measured on texts too.
    if not chosen or (not objective and usual == SFT):
        chosen = usual
    name, located = _located(base_name(base, tokenizer), loaded, fspath(adapter), quiet=quiet)
    with status(f"evaluating on {dataset.name}", quiet=quiet), TURN:
        alone, adapted = evaluate_adapter(located, loaded, dataset, compute=compute, objective=chosen, **sizes)
    return EvaluationResult(name, dataset.name, chosen, alone, adapted)


def _located(
    given: str | PathLike[str] | None, loaded: PeftAdapter, adapter: str, *, quiet: bool
) -> tuple[str, LocatedBase]:
    """The base that is given, else the one that the adapter names, with its name."""
    chosen = fspath(given or "")
    name = chosen or loaded.base_here or ""
    with status(f"looking for base {name}", quiet=quiet) as progress:
        return name, locate_named_base(name, given=chosen, where=adapter, progress=progress)


def _objective_of(adapter: Path) -> str:
    """The objective of the run in a directory; empty without a run, or if only a run can measure it."""
    directory = RunDirectory(adapter)
    if not directory.has_started:
        return ""
    settings = recorded_settings(RunDirectory.find(adapter))
    if objective := leads_out(settings).get("objective", ""):
        again = options({"objective": objective})
        raise ConfigError(f"the objective of '{adapter}' is code; if you trust it, add {again}")
    return "" if settings.learned.completions else settings.objective


def _figures(row: ClientLoss) -> dict[str, Json]:
    figures: dict[str, Json] = {"loss": row.loss, "tokens": row.tokens, "sequences": row.examples}
    if row.margin is not None:
        figures["loss_interval"] = [row.loss - row.margin, row.loss + row.margin]
    if row.change is not None:
        figures["change"] = row.change
        if row.change_margin is not None:
            figures["change_interval"] = [row.change - row.change_margin, row.change + row.change_margin]
    if row.reward_margin is not None:
        figures["reward_margin"] = row.reward_margin
    else:
        figures["perplexity"] = math.exp(row.loss)
    if row.correct is not None:
        name = "accuracy" if row.reward_margin is None else "reward_accuracy"
        figures[name] = row.correct / row.examples
        figures[f"{name}_interval"] = list(wilson(row.correct, row.examples))
    return figures
