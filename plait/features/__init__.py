"""plait's own features, a folder each: take one away, and everything else goes on as before (see `plait.feature`)."""
