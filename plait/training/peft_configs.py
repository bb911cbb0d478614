"""PEFT's configuration objects, from a user's request or from a peer's checked settings."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

from peft import PeftConfig, TaskType

from plait.adapters import Json, Task
from plait.adapters.bottleneck import PEFT_TYPE
from plait.adapters.methods import AdapterRequest, BaseModules, check_options

_TASK_TYPES = {Task.CAUSAL_LM: TaskType.CAUSAL_LM, Task.CLASSIFICATION: TaskType.SEQ_CLS}


def peft_config_for(request: AdapterRequest, task: Task, base: BaseModules) -> PeftConfig:
    """PEFT's configuration of the requested method.

    Raises:
        ConfigError: there is no such method, or it lacks an option that is set.
    """
    method = check_options(request)
    settings = {**method.settings(request, base), **method.fixed}
    if base.heads:
        settings["modules_to_save"] = list(base.heads)
    return _config(peft_type=method.peft_type, task_type=_TASK_TYPES[task], **settings)


def peft_config_of(settings: Mapping[str, Json]) -> PeftConfig:
    """PEFT's configuration from checked settings (`plait.adapters.peft_settings`).

    PEFT may change its input: it adds names of heads to a classifier's `modules_to_save`.

    Raises:
        KeyError, TypeError, ValueError: they are not valid.
    """
    return _config(**copy.deepcopy(dict(settings)))


def _config(**settings: object) -> PeftConfig:
    if settings["peft_type"] == PEFT_TYPE:
        from plait.training.bottleneck import register

        register()
    with warnings.catch_warnings():
        # As `Method.kept` says for VeRA: its matrices come from a seed.
        warnings.simplefilter("ignore")
        return PeftConfig.from_peft_type(**settings)
