"""Sweeps: plan the points, measure each once, choose on validation, open the report split once."""
