"""Tables, plots and a page about a run, from its ledger alone; and estimates of a run's cost, by arithmetic."""
