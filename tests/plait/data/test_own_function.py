"""Data that a user's own function makes, by its place or as an entry point."""

from pathlib import Path

import pytest

from plait.config import RunConfig
from plait.data import as_dataset, check_data_name
from plait.errors import ConfigError
from plait.plugins import admit

_MODULE = """
def load():
    return [{"body": f"text {number}", "who": "ada"} for number in range(5)]

def by_split():
    from datasets import Dataset, DatasetDict
    return DatasetDict(train=Dataset.from_list(load()), test=Dataset.from_list(load()[:2]))

def fails():
    raise ValueError("the treasure lies under the oak")

def a_name():
    return "stdlib"

DATA = [1]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of one's own in the working directory."""
    monkeypatch.chdir(tmp_path)
    name = f"own_data_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(_MODULE)
    return name


def test_a_function_of_a_module_that_the_operator_named_makes_the_data(module):
    admit(*RunConfig(data=f"{module}:load").plugins)
    check_data_name(f"{module}:load")
    dataset = as_dataset(f"{module}:load", columns="text=body,client=who")
    assert (dataset.name, len(dataset.records), dataset.natural_column) == ("load", 5, "who")
    splits = as_dataset(f"{module}:by_split", columns="text=body")
    assert (len(splits.records), len(splits.held_out)) == (5, 2)


def test_nothing_is_imported_that_the_operator_did_not_name(module):
    with pytest.raises(ConfigError, match="which this machine's operator did not name"):
        as_dataset(f"{module}:load")
    for data in ("owner/name:load", "./own:load", "memory:own"):
        assert data.partition(":")[0] not in {text.partition(":")[0] for text in RunConfig(data=data).plugins}


def test_a_file_of_that_name_comes_first(module):
    admit(module)
    Path(f"{module}:load").write_text('{"text": "of the file"}')
    assert as_dataset(f"{module}:load").records[0].text == "of the file"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"failed: ValueError \(.*\.py, line 10\)$"),
        ("a_name", "returned a name, expected the data"),
        ("DATA", "an object of type 'list', expected a function"),
        ("missing", "has no 'missing'"),
    ],
)
def test_a_function_that_makes_no_data_is_refused_in_one_line(module, name, message):
    admit(module)
    with pytest.raises(ConfigError, match=message) as caught:
        as_dataset(f"{module}:{name}")
    assert "treasure" not in str(caught.value)
    assert "\n" not in str(caught.value)
