"""The round loop as explicit state: who takes part, broadcast, train, fold, checkpoint, evaluate, and its record."""
