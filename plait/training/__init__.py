"""The only importer of torch, transformers and peft: bases, examples, the local trainer, baselines, evaluation.

Import the modules themselves. This package re-exports nothing, so that a command that needs one of them does not import
torch for another.
"""

import logging

# PEFT imports it, and it warns if it finds no faster kernels than its own.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
