"""The weights people have, in and out: which array of a file is which parameter of ours.

There is a `Library` for each library and each family of models that it has weights of, and `rules`
is the engine. Nothing here knows a model: all is names, shapes and arrays.
"""
