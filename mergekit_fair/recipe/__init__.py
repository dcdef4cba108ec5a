"""Merge recipes: plain mergekit YAML, parsed strictly, checked before a byte is read."""
