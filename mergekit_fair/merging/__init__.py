"""Merging: tensors of a recipe in memory (`compose`) or as a checkpoint folder (`merge`)."""
