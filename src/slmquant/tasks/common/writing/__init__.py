"""Text that a model writes by itself."""
