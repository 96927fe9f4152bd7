"""Shared by methods: recipes and their parts, learning of blocks and rotations, roles of linears."""
