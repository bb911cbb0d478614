"""Data before tokenisation: records, the user's own data in any shape, built-in sets, packages from the registry."""

from plait.data.builtin import BUILTINS
from plait.data.records import MEMORY, Dataset, Message, Progress, Record, RecordKind, histogram
from plait.data.source import as_dataset, check_data_name
from plait.system.files import cache_directory

__all__ = [
    "BUILTINS",
    "MEMORY",
    "Dataset",
    "Message",
    "Progress",
    "Record",
    "RecordKind",
    "as_dataset",
    "cache_directory",
    "check_data_name",
    "histogram",
]
