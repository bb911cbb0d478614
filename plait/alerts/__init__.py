"""Alerts: a command or a webhook when something happens to a federation; no run waits for them."""
