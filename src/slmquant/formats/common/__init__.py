"""What all formats share: the contract, the walk over weights, folders of checkpoints."""
