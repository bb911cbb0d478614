"""Many adapters on one base behind the OpenAI API, for trying them out on one machine."""

from plait.hosts import AllowedHosts
from plait.serve.app import Access, make_app
from plait.serve.catalogue import Catalogue, Model, common_base
from plait.serve.follow import Follower

__all__ = ["Access", "AllowedHosts", "Catalogue", "Follower", "Model", "common_base", "make_app"]
