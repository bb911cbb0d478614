"""Forgetting: what an adapter no longer knows of what earlier runs learned."""

from plait.feature import Feature

FEATURE = Feature(
    name="forgetting",
    help="what an adapter has forgotten of earlier runs",
    verbs={"eval --on": "plait.features.forgetting.forgetting_verb:evaluate"},
)
