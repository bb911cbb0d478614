"""The server of a federation: plait's Flower ServerApp."""
