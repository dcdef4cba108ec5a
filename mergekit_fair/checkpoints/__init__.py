"""Model folders: their headers, their tensors, what identifies them. Nothing here merges."""
