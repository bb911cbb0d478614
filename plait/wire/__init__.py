"""What travels: envelopes, the codecs that pack their numbers, and the messages that carry them; counts real bytes."""
