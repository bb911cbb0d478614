"""Corrections of clients' local steps for their drift from each other: SCAFFOLD, FedDyn and FedProx."""

from plait.feature import Feature

FEATURE = Feature(
    name="corrections",
    help="corrections of clients' steps for their drift from each other",
    settings="plait.features.corrections.settings:Corrections",
    welcomed=("correction",),
    optimizers={"feddyn": "plait.features.corrections.server_step:FEDDYN"},
    settles="plait.features.corrections.run:settles",
    tasks="plait.features.corrections.run:tasks",
    client_way="plait.features.corrections.run:client_way",
)
