"""Attacks on a finished run: what its adapter tells of the data that it was trained on."""

from plait.feature import Feature

FEATURE = Feature(
    name="attacks",
    help="attacks on a finished run",
    verbs={"audit": "plait.features.attacks.audit_verb:audit"},
)
