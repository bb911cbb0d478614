"""Tasks of lm-evaluation-harness on a base and its adapters: `plait eval --tasks` and `plait.evaluate_tasks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.settings import base_name
from plait.api.turns import TURN
from plait.errors import ConfigError
from plait.progress import say, status

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.adapters import Json
    from plait.exporting.source import Source

BASE, ADAPTER = "base", "adapter"
# Tasks' contexts have any length.
_SEQ_LEN = 2048


@dataclass(frozen=True)
class TaskScores:
    """Scores of a base and its adapters in tasks.

    Attributes:
        base_name: name or directory of the base.
        scores: by ``base``, ``adapter`` and each requested client, then by task: the harness's metrics by name,
            ``…_stderr`` beside each, and ``samples``.
    """

    base_name: str
    scores: Mapping[str, Mapping[str, Mapping[str, Json]]]


def evaluate_tasks(
    adapter: str | PathLike[str],
    tasks: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    clients: Sequence[str] = (),
    base: str | PathLike[str] | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 4,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
) -> TaskScores:
    """Evaluate a base, its shared adapter and clients' own ones by tasks of lm-evaluation-harness.

    Needs the extra: ``pip install 'plait[eval]'``. A task file is a program: it may import Python files beside it.

    Args:
        adapter: a PEFT directory, a run directory or a run.
        tasks: task files (YAML), and names of the harness's own tasks, which read their data from a hub.
        clients: names of clients of a simulated run, whose own adapters are evaluated too.
        base: if the adapter names none that is available: a name, a directory, or a model in memory.
        tokenizer: of a base in memory.
        fewshot: examples before each question; by default what each task says.
        limit: most questions of a task, the first ones; by default all.
        batch_size: sequences per batch.
        device: to compute on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: of the frozen base: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        quiet: whether to show no progress.

    Raises:
        ConfigError: an argument is not valid, the harness is not installed, or a task cannot be evaluated.
        BaseMismatchError: the adapter was trained on another base.
        PeerError: the adapter's directory is not valid.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("limit", limit, 1), ("fewshot", fewshot, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}, expected at least {least}")
    named = [fspath(task) for task in ([tasks] if isinstance(tasks, str | PathLike) else tasks)]
    if not named:
        raise ConfigError("there is no task, expected a task file or a name")
    if find_spec("lm_eval") is None:
        raise ConfigError("tasks need lm-evaluation-harness, which is not installed: pip install 'plait[eval]'")
    path, given = Path(adapter), fspath(base_name(base, tokenizer) or "")
    progress = partial(say, quiet=quiet)
    with status("loading libraries", quiet=quiet):
        from plait.adapters import Task
        from plait.exporting.personal import open_personal
        from plait.exporting.source import locate_weights, open_source
        from plait.training.bases import quiet_libraries
        from plait.training.device import choose_compute

        quiet_libraries()
        from plait.features.tasks.training.harness import Tasks, harness_model
        from plait.training.resident import ResidentBase
    shared = open_source(path, base=given, progress=progress)
    if shared.spec.task is not Task.CAUSAL_LM:
        raise ConfigError(f"adapter '{adapter}' is a classifier, expected one of a language model for --tasks")
    rows: dict[str, Source] = {BASE: shared, ADAPTER: shared}
    for client in clients:
        rows[client] = open_personal(path, client, base=given, progress=progress)
    compute = choose_compute(device, dtype)
    loaded = Tasks(named)
    located = locate_weights(shared, progress=progress)
    found: dict[str, Mapping[str, Mapping[str, Json]]] = {}
    with TURN:
        resident = ResidentBase(located.directory, located.reference.fingerprint, compute, seq_len=_SEQ_LEN)
        for name, source in rows.items():
            with status(f"evaluating {name}", quiet=quiet):
                model = resident.carrying(source.spec, source.state)
                with model.disable_adapter() if name == BASE else nullcontext():
                    harness = harness_model(
                        model, resident.tokenizer, batch_size=batch_size, pad_token=resident.pad_token
                    )
                    found[name] = loaded.evaluate(harness, fewshot=fewshot, limit=limit)
    return TaskScores(located.reference.name, found)
