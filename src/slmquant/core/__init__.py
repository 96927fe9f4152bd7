"""The mathematics: tensors and small values in, tensors out. No modules, no devices, no files, no global state."""
