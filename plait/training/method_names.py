"""The names of adapter methods, to check one before the libraries that implement them are loaded.

Knows nothing of what a method does: `methods` is the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.errors import ConfigError, did_you_mean
from plait.policy import METHOD_NAMES

# Requested methods that are not supported, and the nearest alternatives.
_ELSEWHERE: Mapping[str, str] = {
    "bottleneck": "PEFT has no bottleneck adapters (arXiv 1902.00751), and AdapterHub's library requires transformers "
    "4; the nearest is 'peanut', a bottleneck with a non-linearity over each weight",
    "adalora": "it distributes ranks by one client's own gradients; the nearest is 'lora' with --rank-pattern",
}
_ALIASES: Mapping[str, str] = {
    "adapter": "bottleneck", "adapters": "bottleneck", "houlsby": "bottleneck", "pfeiffer": "bottleneck",
    "lora-xs": "lora_xs", "loraxs": "lora_xs", "p-tuning": "p_tuning", "prompt_tuning": "prompt",
    "prompt-tuning": "prompt", "prefix_tuning": "prefix", "prefix-tuning": "prefix", "(ia)3": "ia3",
    "full-fine-tuning": "full", "fft": "full",
}  # fmt: skip


def check_method_name(name: str) -> str:
    """`name` itself, if a method has that name.

    Raises:
        ConfigError: there is none.
    """
    if name in METHOD_NAMES:
        return name
    meant = _ALIASES.get(name.lower(), name.lower())
    if meant in _ELSEWHERE:
        raise ConfigError(f"method is '{name}', which is not supported: {_ELSEWHERE[meant]}")
    hint = f"; did you mean '{meant}'?" if meant in METHOD_NAMES else did_you_mean(meant, METHOD_NAMES)
    raise ConfigError(f"method is '{name}', expected one of {', '.join(METHOD_NAMES)}{hint}")
