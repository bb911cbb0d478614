"""Training by torch, transformers and peft, which only this package imports.

It re-exports nothing: a command that needs one module does not import torch for another.
"""

import logging

# PEFT imports it, and it warns if it finds no faster kernels than its own.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
