"""A faster implementation of a base with low-rank adapters: the same numbers as PEFT's modules, within rounding.

Nothing here changes a model. `language_model.recognise` inspects the modules of a Llama-like base and decides whether
plait's own implementation can compute its loss; unless it knows every module, PEFT computes it.
"""
