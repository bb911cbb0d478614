from __future__ import annotations

import pytest
from flwr.app import Context, RecordDict

from plait.flower import apps


class InMemoryGrid:
    """By its name the grid of Flower's simulation."""


class OtherGrid:
    """Any other."""


@pytest.mark.parametrize(
    ("grid", "data", "named"),
    [(InMemoryGrid(), "stdlib", None), (OtherGrid(), "", "stdlib")],
    ids=["simulated", "network"],
)
def test_the_data_of_a_run_are_its_own_only_where_flower_simulates_the_clients(
    grid: object, data: str, named: str | None
) -> None:
    given: list[object] = []
    app = apps.server_app(lambda _, settings, superlink_data: given.extend([settings, superlink_data]))
    settings = {"data": "stdlib", "rounds": 2}
    app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings))  # pyright: ignore
    assert given == [{"data": data, "rounds": 2}, named]
