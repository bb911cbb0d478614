import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from plait.plan import settings_of, settled
from plait.training.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_its_own_learning_rate_where_none_is_given(method: str) -> None:
    config = config_from_table({"method": method})
    assert settled(config).learning_rate == settings_of(config).learning_rate == METHODS[method].learning_rate > 0


def test_a_learning_rate_that_is_given_stands() -> None:
    config = config_from_table({"method": "vera", "learning-rate": 1e-5})
    assert settled(config) == config
    assert settings_of(config).learning_rate == 1e-5


def test_a_method_that_is_not_there_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match=r"method is 'lorra', expected one of .*did you mean 'lora'"):
        settled(config_from_table({"method": "lorra"}))
