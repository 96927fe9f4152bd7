"""Discovers the structure of a model by running it: input groups, channel links, the residual stream."""
