"""How many clients there are, and what a user is told of how the data were dealt out."""

import pytest

from plait.config import RunConfig
from plait.data import Dataset, Record, RecordKind
from plait.simulation.partitioned_data import PartitionedData, load_partitioned


def dataset(values: int, *, column: str = "hospital", each: int = 3, natural: str = "") -> Dataset:
    """So many values of a column, with the same number of records each; the higher numbers have longer texts."""
    records = [
        Record(text="a" * (1 + value), columns={column: f"v{value:03}"}) for value in range(values) for _ in range(each)
    ]
    return Dataset.of("letters", RecordKind.TEXT, records, natural_column=natural)


def parts(found: Dataset, /, **settings: object) -> PartitionedData:
    return load_partitioned(RunConfig.model_validate({"data": "memory:letters"} | settings), found)


@pytest.mark.parametrize(
    ("values", "settings", "natural", "clients"),
    [
        (4, {"partition": "natural:hospital"}, "", 4),
        (40, {"partition": "natural:hospital"}, "", 32),
        (40, {"partition": "natural:hospital", "clients": 40}, "", 40),
        (4, {}, "hospital", 4),
        (4, {"partition": "iid", "clients": 1}, "", 1),
        (20, {"partition": "natural:hospital", "clients": 8}, "", 8),
        (4, {"partition": "iid"}, "", 8),
        # The column of a built-in is not the user's choice.
        (20, {"data": "stdlib"}, "hospital", 8),
    ],
)
def test_all_values_of_a_column_take_part_unless_their_number_is_given(values, settings, natural, clients):
    found = parts(dataset(values, natural=natural), **settings).partition
    assert len(found.shares) == clients
    assert found.notes[0].endswith(f" over {clients} client{'s' if clients > 1 else ''}")
    told = any(f"the {clients} with most text take part" in note for note in found.notes)
    assert any("nobody to average with" in note for note in found.notes) == (clients == 1)
    assert told == (values > clients and found.notes[0].startswith("partition natural"))
