"""Whether an adapter is plain LoRA: pairs of factors on linear layers, and nothing else that changes their meaning.

Servers load W + scale * B A. PEFT can store more in the same files (DoRA's magnitudes, whole modules),
and a server that ignores it gives wrong answers silently. So each of these is named and refused here; features that no
method of plait has are refused when the directory is read (`plait.adapters.peft_settings`).
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.adapters import AdapterSpec, Task, bottleneck
from plait.aggregation.geometry import Geometry, geometry_of
from plait.errors import ConfigError
from plait.exporting.source import Source

_INPUT = "it changes the input, not the weights"
ONLY_PEFT: Mapping[str, str] = {
    "PROMPT_TUNING": _INPUT,
    "PREFIX_TUNING": _INPUT,
    "P_TUNING": _INPUT,
    bottleneck.PEFT_TYPE: bottleneck.NO_WEIGHT,
}
"""Types of adapters that change no weight, so that nothing can merge them, and why."""
_FEATURES = {
    "use_dora": "is DoRA, which has magnitudes besides the factors",
    "modules_to_save": "holds whole modules (modules_to_save)",
}


def plain_lora(source: Source, *, use: str, instead: str) -> Geometry:
    """The pairs of an adapter that is plain LoRA of a language model.

    Args:
        use: the feature that needs plain LoRA, for the message, such as ``vLLM``.

    Raises:
        ConfigError: it is not plain LoRA; the message says why.
    """
    head = "has a classification head" if source.spec.task is Task.CLASSIFICATION else None
    fault = head or lora_fault(source.spec)
    if source.peft_type in ONLY_PEFT:
        instead = "export --to peft, or train with --method lora"
    if fault is not None:
        raise ConfigError(
            f"adapter '{source.name}' {fault}, {use} supports only plain LoRA of a language model: {instead}"
        )
    return geometry_of(source.spec)


def lora_fault(spec: AdapterSpec) -> str | None:
    """What makes the adapter more than plain LoRA, or None."""
    config = spec.peft_config
    if config.get("peft_type") != "LORA":
        return f"is made by {spec.method} ({config.get('peft_type')})"
    for key, fault in _FEATURES.items():
        if config.get(key):
            return fault
    others = geometry_of(spec).others
    return f"holds '{others[0].name}', which is not a factor of LoRA" if others else None
