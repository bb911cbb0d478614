"""A client of a federation: plait's resident node, and its Flower ClientApp (`client.app`)."""
