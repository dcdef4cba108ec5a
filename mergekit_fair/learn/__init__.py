"""`learn`: λ of every vector and tensor, learned on validation rows by gradient."""
