"""Init: a commented file of settings for a first run, from three answers or from a data file."""
