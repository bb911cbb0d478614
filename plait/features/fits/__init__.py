"""Fits: whether a machine's memory is enough to train on a base, before anything is loaded."""

from plait.feature import Feature

FEATURE = Feature(
    name="fits",
    help="how training on a base fits into memory",
    verbs={"doctor --base": "plait.features.fits.fits_verb:fits"},
)
