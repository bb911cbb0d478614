"""Settings of what is hidden, from whom, and how well."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from plait.settings.table import MOST, Table, number_or


class Privacy(Table):
    """What is hidden, from whom, and how well."""

    table: ClassVar[str] = "privacy"
    heading: ClassVar[str] = "Privacy"

    secure_aggregation: bool = False
    """hide every client's update, losses and counts from the server, which learns their sums alone"""
    dp: Literal["off", "client", "record"] = "off"
    """differential privacy of each record, of each client, or off; record hides from everybody, the server too, what
    any one sequence of a client changed; client hides what any one client's data changed from everybody but the server,
    with secure-aggregation from the server too, and needs hundreds of clients to be useful (plait estimate says)"""
    dp_epsilon: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """epsilon of the whole run, never exceeded; sets the noise"""
    dp_noise_multiplier: Annotated[float, Field(ge=0, le=1e4)] = 0.0
    """noise over clip norm in each round (of records: step), instead of an epsilon"""
    dp_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """delta of the whole run; 0 means 1e-5, or of clients 1 / (10 clients) if that is smaller"""
    dp_clip: Annotated[
        Annotated[float, Field(gt=0, le=1e6)] | Literal["adaptive"], BeforeValidator(number_or("adaptive"))
    ] = "adaptive"
    """norm that a client's update, or a record's gradient, is clipped to; adaptive follows the median of the updates,
    and scales all gradients to one norm"""
    dp_min_separation: Annotated[int, Field(ge=1, le=MOST)] = 1
    """rounds from one in which a client takes part to the next at the earliest; more than 1 lowers the noise of --dp
    client, and needs so many times the clients of a round"""
