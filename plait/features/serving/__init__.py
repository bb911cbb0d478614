"""Many adapters on one base behind the OpenAI API, for trying them out on one machine."""

from plait.feature import Feature

FEATURE = Feature(
    name="serving",
    help="adapters behind the OpenAI API",
    verbs={"serve": "plait.features.serving.serve_verb:serve"},
)
