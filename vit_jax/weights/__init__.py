"""Import and export of weights: which array of a file is which parameter of a model.

There is one `Library` record for each library and each family of models that it has weights of.
`rules` converts names and shapes by them. This package depends on no model: it handles names,
shapes and arrays.
"""
