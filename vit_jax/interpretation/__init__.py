"""Interpretation: what a trained model attends to, and what it has learned."""
