"""Data before tokenisation: records, the user's own JSONL, built-in sets, and packages from the registry."""

from plait.data.builtin import BUILTINS, check_data_name, load_dataset
from plait.data.cache import cache_directory
from plait.data.histogram import histogram
from plait.data.jsonl import read_jsonl
from plait.data.packages import Progress, fetch_package_files
from plait.data.records import Dataset, Message, Record, RecordKind

__all__ = [
    "BUILTINS",
    "Dataset",
    "Message",
    "Progress",
    "Record",
    "RecordKind",
    "cache_directory",
    "check_data_name",
    "fetch_package_files",
    "histogram",
    "load_dataset",
    "read_jsonl",
]
