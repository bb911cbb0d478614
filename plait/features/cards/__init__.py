"""Several devices: simulated clients in a process for each."""
