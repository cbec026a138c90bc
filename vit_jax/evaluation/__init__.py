"""Evaluation: metrics over every image of a source, each counted once."""
