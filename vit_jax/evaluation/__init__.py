"""Evaluation: metrics over a source, in which every image counts exactly once."""
