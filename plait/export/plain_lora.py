"""Whether an adapter is plain LoRA: pairs of factors on linear layers, and nothing else that changes what they mean.

What servers load is W + scale * B A. PEFT can hold much more in the same files (DoRA's magnitudes, trained biases,
whole modules, initialisations that move the base), and a server that overlooks it answers wrongly without a word. So
each of these is named and refused here.
"""

from __future__ import annotations

from plait.adapters import AdapterSpec, Task
from plait.aggregation.geometry import Geometry, geometry_of
from plait.errors import ConfigError
from plait.export.source import Source

# The other initialisations of PEFT take a part of the base's weights into the adapter, so they fit a moved base only.
_SOUND_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga", "true", "false"})
# They add to the input and change no weight, so nothing but PEFT applies them.
INPUT_METHODS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT"}
)
_FEATURES = {
    "use_dora": "is DoRA, which has magnitudes beside the factors",
    "lora_bias": "trains biases of the factors (lora_bias)",
    "modules_to_save": "holds whole modules (modules_to_save)",
    "layer_replication": "repeats layers of the base (layer_replication)",
    "alora_invocation_tokens": "is switched on by tokens (aLoRA)",
    "use_qalora": "is QALoRA, which pools its input",
    "use_bdlora": "is block-diagonal LoRA",
    "target_parameters": "adapts parameters that are no layer (target_parameters)",
}


def plain_lora(source: Source, *, use: str, instead: str) -> Geometry:
    """The pairs of an adapter that is plain LoRA of a language model.

    Args:
        source: the adapter.
        use: what needs it plain, for the message: ``vLLM``.
        instead: the nearest thing that works.

    Raises:
        ConfigError: it is something else; the message says what.
    """
    head = "has a classification head" if source.spec.task is Task.CLASSIFICATION else None
    fault = head or lora_fault(source.spec)
    if source.peft_type in INPUT_METHODS:
        instead = "export --to peft, or train with --method lora"
    if fault is not None:
        raise ConfigError(f"adapter '{source.name}' {fault}, {use} takes plain LoRA of a language model: {instead}")
    return geometry_of(source.spec)


def lora_fault(spec: AdapterSpec) -> str | None:
    """What makes the adapter more than plain LoRA, or None."""
    config = spec.peft_config
    if config.get("peft_type") != "LORA":
        return f"is made by {spec.method} ({config.get('peft_type')})"
    for key, fault in _FEATURES.items():
        if config.get(key):
            return fault
    bias = config.get("bias")
    if bias not in (None, "none"):
        return f"trains biases (bias is '{bias}')"
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _SOUND_INITS:
        return f"began as '{init}', which moves weights of the base into the adapter"
    others = geometry_of(spec).others
    return f"holds '{others[0].name}', which is no factor of LoRA" if others else None
