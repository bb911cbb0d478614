"""Evidence: one signed file about a finished run, which others check without plait."""
