"""Runs for the FlowerTune LLM leaderboard."""

from plait.feature import Feature

FEATURE = Feature(
    name="flowertune",
    help="set up a run for a FlowerTune challenge",
    verbs={"flowertune": "plait.features.flowertune.flowertune_verb:flowertune"},
)
