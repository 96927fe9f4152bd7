"""The mathematics: pure functions of tensors and small values. No modules, devices, files or global state."""
