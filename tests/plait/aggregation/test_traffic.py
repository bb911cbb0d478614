from plait.aggregation.geometry import Side
from plait.aggregation.traffic import parameters, stacked_parameters


def test_parameters_are_those_of_the_sides_and_of_all_else(lab):
    geometry = lab.geometry({"q": (7, 5)}, rank=2)
    assert parameters(geometry) == geometry.layout.size == 2 * (7 + 5) + 6
    assert parameters(geometry, {Side.B}) == 2 * 7 + 6
    assert parameters(geometry, ()) == 6


def test_a_stack_is_never_wider_than_the_weight(lab):
    geometry = lab.geometry({"q": (7, 5)}, rank=2)
    assert [stacked_parameters(geometry, k) for k in (0, 1, 2, 3)] == [0, 24, 48, 60]
