"""Chat: talk in the terminal to the model that a run made."""
