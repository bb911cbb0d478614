"""Samples: how the base and the adapter continue the same beginnings, in the terminal, the record and the report."""

from plait.feature import Feature

FEATURE = Feature(
    name="samples",
    help="what base and adapter write at the end of a run",
    settings="plait.settings.tables:Samples",
    events={"sampled": "plait.features.samples.sampled:Sampled"},
    shows="plait.features.samples.sampled:samples_table",
)
