import pytest

from plait.adapters.methods import METHODS, Option, method_named
from plait.errors import ConfigError


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if Option.TOKENS in method.options])
def test_a_method_with_a_prompt_takes_its_length(name):
    assert method_named(name).virtual_tokens == 20
    assert method_named(f"{name}:virtual-tokens=3").virtual_tokens == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:virtual-tokens=3", "method 'lora' is given the option 'virtual-tokens', it has no options"),
        ("prompt:virtual-tokens=0", "virtual-tokens of method 'prompt' is '0', expected greater than or equal to 1"),
        ("prompt:tokens=3", "method 'prompt' is given the option 'tokens', expected one of virtual_tokens"),
    ],
)
def test_another_option_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        method_named(text)
