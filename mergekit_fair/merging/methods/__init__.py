"""Merge methods: one kernel a file, tensors in, tensor out; registration in `registry`."""
