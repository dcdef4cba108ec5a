"""PAVE: linear layers of fine-tuned models, cut to low rank in the metric of their inputs."""
