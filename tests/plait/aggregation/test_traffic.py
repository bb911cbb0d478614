from plait.aggregation.geometry import Side
from plait.aggregation.traffic import parameters


def test_what_is_outside_the_pairs_always_travels(lab):
    geometry = lab.geometry({"q": (7, 5)}, rank=2)
    both = parameters(geometry)
    assert both == geometry.layout.size
    assert parameters(geometry, {Side.B}) == both - 2 * 5
    assert parameters(geometry, ()) == geometry.others_size
