"""A client of a federation: plait's Flower ClientApp."""
