"""Benchmarks of bias that language models are measured on: one file each, documents and scores."""
