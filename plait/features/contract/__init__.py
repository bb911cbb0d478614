"""A contract among members: signed by each, in force once enough have signed, and enforced by each client itself."""

from plait.feature import Feature

FEATURE = Feature(
    name="contract",
    help="a contract that members sign and every client enforces",
    meets=("gate", "privacy"),
    verbs={"contract": "plait.features.contract.contract_verb:contract"},
    admits="plait.features.contract.enforcing:admitted",
    node="plait.features.contract.enforcing:enforced",
)
