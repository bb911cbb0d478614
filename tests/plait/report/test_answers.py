from __future__ import annotations

from plait.report.answers import answers
from tests.plait.conftest import small_events, view_of


def worse(change: float, margin: float) -> list[dict[str, object]]:
    """The run with its last evaluation `change` above its base's loss."""
    events = small_events()
    evaluations = [event for event in events if event["event"] == "evaluated"]
    base = evaluations[0]["loss"]
    evaluations[-1] |= {"loss": base + change, "change": change, "change_margin": margin}  # type: ignore[operator]
    return events


def test_an_adapter_that_is_worse_than_its_base_is_called_so() -> None:
    view = view_of(worse(0.5, 0.1))
    first = answers(view)[0]
    assert (first.short, first.is_bad) == ("No", True)
    assert "worse than the base" in first.text
    assert view.is_better is False


def test_a_change_within_its_margin_is_no_success() -> None:
    view = view_of(worse(-0.05, 0.1))
    assert answers(view)[0].short == "Not measurably"
    assert view.is_better is None
