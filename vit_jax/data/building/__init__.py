"""Preparing data sets of TensorFlow Datasets, to be read without TensorFlow.

prepare_dataset: find it -> build it, or add array_record to another format -> check every file
"""
