"""The table of adapter methods by name: the usual ones here, the others imported when one of them is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from plait.adapters.method import DORA, LORA, QLORA, RSLORA, AdapterRequest, Method, Option
from plait.errors import ConfigError
from plait.plugins import Kind, find
from plait.settings.choice import Choices, parse_choice, with_options

# Requested methods that are not supported, and the nearest alternatives.
_ELSEWHERE: Mapping[str, str] = {"adalora": "it chooses ranks from one client's gradients; the nearest is 'lora'"}


def _known_methods() -> Mapping[str, Method]:
    from plait.adapters.known_methods import KNOWN

    return KNOWN


METHODS: Choices[Method] = Choices(
    (("lora", "rslora", "qlora", "dora"), lambda: {"lora": LORA, "rslora": RSLORA, "qlora": QLORA, "dora": DORA}),
    (
        ("lora_xs", "vera", "ia3", "peanut", "bottleneck", "pfeiffer", "prompt", "prefix", "p_tuning", "full"),
        _known_methods,
    ),
)
"""By name, the most common first."""


def is_quantised(name: str) -> bool:
    """Whether the method called `name` holds the base in four bits; False for a name that only another tool knows."""
    try:
        return bool(name) and method_named(name).quantised
    except ConfigError:
        return False


@dataclass(frozen=True)
class _Prompt:
    virtual_tokens: Annotated[int, Field(ge=1, le=4096, description="length of the learned prompt")] = 20


def method_named(text: str) -> Method:
    """The method that `--method` names: one of `METHODS`, or a user's own `Method`; of prompts ``virtual-tokens``.

    Raises:
        ConfigError: there is none, or it has no such option.
    """
    name, options = parse_choice(text)
    method = _method_called(name)
    if not options:
        return method
    has_prompt = Option.TOKENS in method.options
    prompt = with_options(_Prompt() if has_prompt else None, options, what=f"method '{name}'")
    return replace(method, virtual_tokens=prompt.virtual_tokens) if prompt else method


def _method_called(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    meant = name.lower()
    if meant in _ELSEWHERE:
        raise ConfigError(f"method is '{name}', which is not supported: {_ELSEWHERE[meant]}")
    aliased = next((method.name for method in METHODS.values() if meant in (method.name, *method.aliases)), None)
    if aliased:
        raise ConfigError(f"method is '{name}', expected one of {', '.join(METHODS)}; did you mean '{aliased}'?")
    found = find(Kind.METHOD, name, known=METHODS)
    if not isinstance(found, Method):
        raise ConfigError(f"method '{name}' is a {type(found).__name__}, expected a plait.adapters.methods.Method")
    return replace(found, name=name)


def check_options(request: AdapterRequest) -> Method:
    """The requested method, if it has all the options that are set."""
    method = method_named(request.method)
    plain = AdapterRequest()
    given = {
        Option.DROPOUT: request.dropout != plain.dropout,
        Option.TARGETS: request.target_modules != plain.target_modules,
    }
    for option, is_given in given.items():
        if is_given and option not in method.options:
            having = ", ".join(name for name, other in METHODS.items() if option in other.options)
            raise ConfigError(f"{option} is set, but method '{method.name}' has none; methods with it: {having}")
    return method
