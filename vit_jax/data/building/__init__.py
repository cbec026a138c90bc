"""Preparation of TFDS data sets, so that they can be read without TensorFlow.

prepare_dataset: find it -> build it, or add array_record to another format -> check every file
"""
