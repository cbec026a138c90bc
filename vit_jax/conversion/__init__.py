"""Weights of other libraries in, and ours out: between their files and our run folders."""
