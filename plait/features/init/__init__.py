"""Init: a commented file of settings for a first run, from three answers or from a data file."""

from plait.feature import Feature

FEATURE = Feature(
    name="init",
    help="a commented file of settings to begin with",
    verbs={"init": "plait.features.init.init_verb:init"},
)
