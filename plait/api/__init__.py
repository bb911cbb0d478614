"""The public Python API; its names are re-exported by `plait` itself, which loads them when they are first used."""
