import pytest

from plait.adapters import Parent, parents_from
from plait.errors import PeerError

DIGEST = "0f" * 32


def test_what_was_written_is_read_again() -> None:
    parents = (Parent(DIGEST), Parent("a" * 64, -0.5))
    assert parents_from([parent.to_json() for parent in parents]) == parents
    assert parents_from(None) == ()


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [3],
        [{"digest": "x", "weight": 1.0}],
        [{"digest": DIGEST, "weight": True}],
        [{"digest": DIGEST, "weight": float("nan")}],
        [{"digest": DIGEST, "weight": 1.0}] * 300,
    ],
)
def test_anything_else_is_the_peers_fault(value) -> None:
    with pytest.raises(PeerError, match="parent"):
        parents_from(value)
