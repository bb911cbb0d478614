"""plait: federated fine-tuning of language models by low-rank adapters."""

__version__ = "0.1.0"
