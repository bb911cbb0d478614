"""What both ends of a gRPC federation share: constants, chunk streams, channel credentials and options."""
