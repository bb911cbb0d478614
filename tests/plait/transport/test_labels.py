import pytest

from plait.errors import ConfigError
from plait.transport.labels import MAX_LABELS, are_labels, parse_labels


def test_labels_of_the_command_line_are_sorted_and_each_once():
    assert parse_labels(" region=eu, gpu,gpu ", what="labels") == ("gpu", "region=eu")
    assert parse_labels(" ", what="labels") == ()


@pytest.mark.parametrize("label", ["", "a b", "=eu", "region=", "a=b=c", "-x", "é", "x" * 33, "a\nb"])
def test_what_is_no_label_is_refused_from_operators_and_peers(label):
    with pytest.raises(ConfigError, match="expected labels such as gpu or region=eu"):
        parse_labels(f"gpu,{label},x", what="labels")
    assert not are_labels(["gpu", label])


def test_there_are_at_most_so_many():
    labels = [f"l{number}" for number in range(MAX_LABELS + 1)]
    assert are_labels(labels[1:])
    assert not are_labels(labels)
    with pytest.raises(ConfigError, match="has 17 labels, expected at most 16"):
        parse_labels(",".join(labels), what="labels")
