"""Preparing data sets of TensorFlow Datasets, to be read without TensorFlow."""
