"""Fine-tuning: a base with its head, full and LoRA baselines, one model per subgroup."""
