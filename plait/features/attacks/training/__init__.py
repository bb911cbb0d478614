"""What attacks ask of a model, in torch."""
