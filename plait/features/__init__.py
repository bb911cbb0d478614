"""plait's own features, a folder each: without one, everything else works as before (see `plait.feature`)."""
