"""A client whose trainer is a program of its operator's, in any language: it trains, and plait does all else."""

from plait.feature import Feature

FEATURE = Feature(
    name="child_trainer",
    help="a client whose trainer is a program in any language (plait client --trainer-exec)",
    trainer="plait.features.child_trainer.node:node_with_program",
)
