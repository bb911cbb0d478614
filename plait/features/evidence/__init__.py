"""Evidence: one signed file about a finished run, which others check without plait."""

from plait.feature import Feature

FEATURE = Feature(
    name="evidence",
    help="a signed bundle about a run, and what clients state of it",
    verbs={
        "evidence": "plait.features.evidence.evidence_verb:evidence",
        "evidence --attest": "plait.features.evidence.evidence_verb:attest",
    },
    node="plait.features.evidence.sent:recorded",
)
