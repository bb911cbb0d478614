"""lm-evaluation-harness on plait's forward pass: its own Hugging Face backend, but for log-likelihoods.

Tokenisation, chat templates, generation and all metrics are the harness's own, so its figures and ours are the same to
rounding. The harness is an extra (`plait[eval]`): import this module only where it is wanted. Knows no adapters.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm
from yaml.error import MarkedYAMLError

from plait.adapters import Json
from plait.errors import ConfigError, MachineError, PlaitError
from plait.features.tasks.training.scoring import scores
from plait.training.examples import Tokenizer

_SUFFIXES = (".yaml", ".yml")
# lm-eval's own, for the standard errors of metrics without a formula.
_BOOTSTRAP = 100_000


def harness_model(model: nn.Module, tokenizer: Tokenizer, *, batch_size: int, pad_token: int) -> object:
    """A model in memory for the harness: its Hugging Face backend, with plait's log-likelihoods."""
    huggingface = import_module("lm_eval.models.huggingface")
    with quiet_harness():
        backend = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)

    def likelihoods(
        requests: Sequence[tuple[object, Sequence[int], Sequence[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one; as the backend's own method."""
        del disable_tqdm
        found = scores(
            model,
            [(context, continuation) for _, context, continuation in requests],
            pad_token=pad_token,
            batch_size=override_bs or batch_size,
            most_tokens=backend.max_length,
        )
        return [(each.likely, each.is_greedy) for each in found]

    backend._loglikelihood_tokens = likelihoods
    return backend


class Tasks:
    """Tasks of the harness.

    Args:
        named: names of tasks, groups or tags of the harness, or task files (YAML). Paths of data in a task file are
            relative to the current directory, as in the harness, or to the file.

    Raises:
        ConfigError: there is no such task, or its file or its data cannot be used.
    """

    def __init__(self, named: Sequence[str]) -> None:
        self._files = {name: Path(name) for name in named if name.endswith(_SUFFIXES)}
        self._named = named
        with _told(f"task{'' if len(named) == 1 else 's'} {', '.join(named)}"), quiet_harness():
            # The index of the harness's own tasks takes seconds to read.
            self._manager = import_module("lm_eval.tasks").TaskManager(include_defaults=len(self._files) < len(named))
        for name in named:
            if name not in self._files and name not in self._manager.all_tasks:
                raise ConfigError(
                    f"task is '{name}', which is none of lm-evaluation-harness, expected one that `lm-eval ls tasks` "
                    "lists, or a task file ending in .yaml"
                )

    def evaluate(self, model: object, *, fewshot: int | None, limit: int | None) -> dict[str, dict[str, Json]]:
        """Metrics of each task by name, each with its standard error under ``…_stderr``; groups too.

        Args:
            fewshot: examples before each question; by default what each task says.
            limit: most questions of a task; by default all.

        Raises:
            ConfigError: a task cannot be evaluated.
            MachineError: the memory is too small.
        """
        found: dict[str, dict[str, Json]] = {}
        for name in self._named:
            with _told(f"task '{name}'"), quiet_harness():
                results = import_module("lm_eval").simple_evaluate(
                    model=model,
                    tasks=[self._task(name)],
                    num_fewshot=fewshot,
                    limit=limit,
                    task_manager=self._manager,
                    bootstrap_iters=_BOOTSTRAP,
                    log_samples=False,
                )
            for task, metrics in {**results["results"], **results.get("groups", {})}.items():
                found[task] = _plain(cast("Mapping[str, object]", metrics))
        return found

    def _task(self, name: str) -> str | dict[str, Any]:
        path = self._files.get(name)
        if path is None:
            return name
        config = cast("dict[str, Any]", import_module("lm_eval.tasks._yaml_loader").load_yaml(path))
        if "group" not in config:
            _check(config, path)
        given = config.get("dataset_kwargs")
        if isinstance(given, dict) and "data_files" in given:
            config["dataset_kwargs"] = {**given, "data_files": _beside(given["data_files"], path.parent)}
        return config


def _check(config: Mapping[str, Any], path: Path) -> None:
    """What the harness itself would miss without a word that helps."""
    needed = ["task", "doc_to_text", *(() if "custom_dataset" in config else ("dataset_path",))]
    if config.get("output_type") == "multiple_choice":
        needed += ["doc_to_choice", "doc_to_target"]
    for key in needed:
        if config.get(key) is None:
            raise ConfigError(f"task file '{path}' has no {key}, expected one as lm-evaluation-harness describes it")


def _beside(files: object, folder: Path) -> object:
    """Paths of data that are not in the current directory, in that of the task file."""
    if isinstance(files, str):
        there = folder / files
        return str(there) if not Path(files).exists() and there.exists() else files
    if isinstance(files, list):
        return [_beside(each, folder) for each in files]
    if isinstance(files, dict):
        return {key: _beside(each, folder) for key, each in files.items()}
    return files


def _plain(metrics: Mapping[str, object]) -> dict[str, Json]:
    """Numbers by the name of their metric, and of its filter where it is not the usual one; ``samples``."""
    found: dict[str, Json] = {}
    for key, value in metrics.items():
        name, _, chosen = key.partition(",")
        if chosen and isinstance(value, int | float):
            found[name if chosen == "none" else f"{name},{chosen}"] = float(value)
    samples = metrics.get("sample_len")
    if isinstance(samples, int):
        found["samples"] = samples
    return found


@contextmanager
def _told(what: str) -> Generator[None]:
    """Whatever the harness, a template or the data raise becomes one line."""
    try:
        yield
    except PlaitError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(f"{what} does not fit into memory: give a smaller --batch-size") from error
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{what} is not YAML{line}: {error.problem or error}") from error
    except Exception as error:  # a task file is a program: it may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f": {lines[0]}" if lines else ""
        raise ConfigError(f"{what} cannot be evaluated: {type(error).__name__}{reason}") from error


@contextmanager
def quiet_harness() -> Generator[None]:
    """Without the harness's log and its bars."""
    logger, bars = logging.getLogger("lm_eval"), cast("Any", tqdm)
    before, original = logger.level, bars.__init__

    def silent(bar: object, *args: object, **options: object) -> None:
        original(bar, *args, **{**options, "disable": True})

    logger.setLevel(logging.ERROR)
    bars.__init__ = silent
    try:
        yield
    finally:
        logger.setLevel(before)
        bars.__init__ = original
