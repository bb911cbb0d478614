"""The wire format: envelopes, the codecs that pack their numbers, and the messages around them; counts real bytes."""
