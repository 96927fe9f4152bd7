"""Names and behaviour that differ between versions and families of transformers."""
