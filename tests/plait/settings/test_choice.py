"""A name and its options in one text."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field

from plait.errors import ConfigError
from plait.settings.choice import choice_text, parse_choice, split_choices, with_options


@dataclass(frozen=True)
class Sample:
    share: Annotated[float, Field(gt=0, lt=1, description="a share")] = 0.5
    count: Annotated[int, Field(ge=1, le=9, description="a count")] = 3
    loud: Annotated[bool, Field(description="a switch")] = False
    hidden: float = 1.0


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("fedavg", "fedavg", {}),
        ("trimmed_mean:share=0.1", "trimmed_mean", {"share": "0.1"}),
        (" a : b = 1 , c=2 ", "a", {"b": "1", "c": "2"}),
        ("a:", "a", {}),
        ("my_rules:Mine", "my_rules:Mine", {}),
        ("my.rules:Mine:a=1,b=2", "my.rules:Mine", {"a": "1", "b": "2"}),
    ],
)
def test_a_text_is_a_name_and_its_options(text, name, options):
    assert parse_choice(text) == (name, options)


@pytest.mark.parametrize("text", ["a:b=", "a:=1", "a:b=1,b=2", "a:b:c", "m:a:b=1,b=2"])
def test_an_option_without_a_value_or_given_twice_is_refused(text):
    with pytest.raises(ConfigError, match="option"):
        parse_choice(text)


def test_a_table_with_a_name_is_the_same_text():
    text = choice_text({"name": "sample", "share": 0.25, "count": 4, "loud": True})
    assert text == "sample:share=0.25,count=4,loud=True"
    name, options = parse_choice(text)
    assert (name, with_options(Sample(), options, what="sample")) == ("sample", Sample(0.25, 4, True))
    assert choice_text({"name": "sample"}) == "sample"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"shar": "0.1"},
            "sample is given the option 'shar', expected one of share, count, loud; did you mean 'share'",
        ),
        ({"hidden": "2"}, "option 'hidden'"),
        ({"share": "1"}, "share of sample is '1', expected less than 1"),
        ({"share": "nan"}, "expected a finite number"),
        ({"count": "2.5"}, "expected a valid integer"),
    ],
)
def test_an_option_that_is_not_there_or_out_of_range_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        with_options(Sample(), given, what="sample")


def test_a_text_may_have_several_choices_each_with_its_options():
    assert split_choices("wandb, my:Log:every=2,last=true,my:Log,,wandb") == (
        "wandb",
        "my:Log:every=2,last=true",
        "my:Log",
    )
    assert split_choices("") == ()
