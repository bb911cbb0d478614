"""Code shared by both ends of a gRPC federation: constants, chunk streams, channel credentials and options."""
