"""The arithmetic of what a run promises: epsilon of noise, and how many must collude against masks."""
