import pytest

from plait.errors import ConfigError
from plait.settings.traits import Stated, Trait, check

NEEDS = Stated("select", "best", needs={Trait.FIGURES: "losses are compared"}, instead="select last")
TAKES = Stated("mask", True, removes={Trait.FIGURES: "sums alone are seen"})


@pytest.mark.parametrize("stated", [(NEEDS, TAKES), (TAKES, NEEDS)])
def test_a_refusal_names_both_parts_the_trait_both_reasons_and_what_would_do(stated):
    with pytest.raises(ConfigError) as refused:
        check(stated)
    assert str(refused.value) == (
        "select is 'best' and mask is true, expected select last or another mask: select needs that the server may use "
        "losses, counts and times of single clients (losses are compared), but sums alone are seen"
    )


def test_a_part_may_take_what_it_needs_and_no_second_one_then_does():
    own, second = (
        Stated(key, "x", needs={Trait.OWN_LOSS: ""}, removes={Trait.OWN_LOSS: "it has one"}) for key in ("a", "b")
    )
    check((own,))
    check((own, Stated("a", "x", needs={Trait.OWN_LOSS: ""})))  # the same part
    with pytest.raises(ConfigError, match="a is 'x' and b is 'x'"):
        check((own, second))
