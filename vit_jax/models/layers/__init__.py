"""Building blocks of the models: each module has the variants of one part, and a table of them."""
