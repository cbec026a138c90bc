"""The fields that the name of a model stands for, by family."""
