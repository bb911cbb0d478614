"""The table of adapter methods: each is a name over one of PEFT's own configuration classes.

To add a method that PEFT has, add a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from peft import LoraConfig, PeftConfig, TaskType

from plait.adapters import Task
from plait.config import did_you_mean
from plait.errors import ConfigError

_TASK_TYPES = {Task.CAUSAL_LM: TaskType.CAUSAL_LM, Task.CLASSIFICATION: TaskType.SEQ_CLS}


@dataclass(frozen=True)
class AdapterRequest:
    """What the user asked for, before it meets a base.

    Attributes:
        target_modules: ``all-linear`` or module names separated by commas.
    """

    method: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str = "all-linear"

    @property
    def targets(self) -> str | list[str]:
        """The targets as PEFT takes them."""
        if self.target_modules == "all-linear":
            return self.target_modules
        return sorted(name.strip() for name in self.target_modules.split(",") if name.strip())


def _lora(request: AdapterRequest, task: Task) -> PeftConfig:
    # PEFT writes alpha as an int where it is one, as every other tool that reads the file expects.
    alpha = int(request.alpha) if float(request.alpha).is_integer() else request.alpha
    return LoraConfig(
        r=request.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=request.dropout,
        target_modules=request.targets,
        task_type=_TASK_TYPES[task],
    )


METHODS: Mapping[str, Callable[[AdapterRequest, Task], PeftConfig]] = {
    "lora": _lora,
}


def peft_config_for(request: AdapterRequest, task: Task) -> PeftConfig:
    """PEFT's configuration of the method asked for.

    Raises:
        ConfigError: there is no such method.
    """
    build = METHODS.get(request.method)
    if build is None:
        raise ConfigError(
            f"method is '{request.method}', expected one of {', '.join(METHODS)}{did_you_mean(request.method, METHODS)}"
        )
    return build(request, task)
