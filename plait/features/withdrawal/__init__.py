"""Withdrawal: the adapter of a federation as if a client had never joined, and a record that says so."""

from plait.feature import Feature

FEATURE = Feature(
    name="withdrawal",
    help="an adapter as if a client had never joined",
    settings="plait.settings.tables:Withdrawal",
    verbs={"resume --withdraw": "plait.features.withdrawal.withdraw_verb:withdraw"},
    events={
        "client_withdrawn": "plait.features.withdrawal.events:ClientWithdrawn",
        "withdrawn": "plait.features.withdrawal.events:Withdrawn",
    },
    sections=("plait.features.withdrawal.events:withdrawal_table",),
)
