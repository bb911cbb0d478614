"""The server of a federation: plait's service over gRPC, and its Flower ServerApp (`server.app`)."""
