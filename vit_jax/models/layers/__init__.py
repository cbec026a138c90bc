"""Building blocks of the models: each module has the variants of one block, and their names."""
