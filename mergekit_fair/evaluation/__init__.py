"""Models on rows: inputs, predictions, one evaluation as the JSON of the interface."""
