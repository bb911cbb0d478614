"""The keys and secrets of simulated clients; only runs with masks or differential privacy need them."""

import hashlib
from functools import cache

from plait.rounds.data_journal import ClientSecret
from plait.trust.keys import NodeIdentity, NodeKey


class SimulatedKeys:
    """What each client of a run has, from the run's seed: a simulation has one operator and can be repeated."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._key = cache(self._made)

    def secret(self, client: str) -> ClientSecret:
        """A client's secret of the run."""
        return ClientSecret.simulated(self._seed, client)

    def identity(self, client: str) -> NodeIdentity:
        """A client's node key, for which the operator vouches."""
        key = self._key(client)
        return NodeIdentity(key.public_bytes, key.sign, self.vouch)

    def vouch(self, client: str, identity: bytes, *_proof: bytes) -> bool:
        """Whether a node key is a client's."""
        return self._key(client).public_bytes == identity

    def _made(self, client: str) -> NodeKey:
        text = f"node key of a simulation {self._seed} {client}"
        return NodeKey.from_seed(hashlib.sha256(text.encode()).digest())
