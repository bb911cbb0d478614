"""What the holder of a certificate may do: take part, operate the federation, or only look at it.

The certificate (its subject's organizational unit; a client's has none) and the register both state the role, and must
agree. Knows nothing of calls.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The roles of a federation's members; the server has none."""

    CLIENT = "client"
    OPERATOR = "operator"
    OBSERVER = "observer"

    @classmethod
    def named(cls, name: str) -> Role | None:
        """The role of this name; None if there is none."""
        return next((role for role in cls if role == name), None)

    @property
    def folder(self) -> str:
        """The folder of such kits in ``plait provision``'s directory."""
        return f"{self}s"

    @property
    def of(self) -> str:
        """The role in a sentence, with its article."""
        return f"a {self}" if self is Role.CLIENT else f"an {self}"


STAFF = (Role.OPERATOR, Role.OBSERVER)
"""The roles of people; they hold no data and take no part in rounds."""
