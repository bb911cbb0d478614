"""Parts for plait."""
