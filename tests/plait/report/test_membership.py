import pytest

from plait.ledger.events import MembershipAttack
from plait.report.tables import verdict


@pytest.mark.parametrize(
    ("auc", "control", "leaks"), [(0.8, 0.5, True), (0.55, 0.5, False), (0.7, 0.75, False), (0.2, 0.1, False)]
)
def test_an_adapter_leaks_where_an_attack_on_it_is_better_than_chance_and_than_the_base(auc, control, leaks):
    attacks = [
        MembershipAttack(name="loss, against the base's", auc=auc, margin=0.1, tpr=0.25),
        MembershipAttack(name="control: loss of the base", auc=control, margin=0.1, tpr=0.01),
    ]
    said = verdict(attacks)
    assert said.startswith("This adapter gives members away" if leaks else "No leak found")
    assert ("25.0%" in said) == leaks
