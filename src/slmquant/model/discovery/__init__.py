"""What a model is made of, found by running it: groups of inputs, links of channels, the residual stream."""
