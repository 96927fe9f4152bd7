"""The ladder: models of random weights in the shapes of small models, timed on engines at 16, 8 and 4 bits.

Speed and memory of a dense model depend on its shapes and not on its weights, so no model has to be fetched or trained.
"""
