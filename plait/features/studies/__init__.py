"""Studies: several runs compared."""
