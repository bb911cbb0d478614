"""The command line: one file a verb; heavy libraries are imported only by the verb that needs them."""
