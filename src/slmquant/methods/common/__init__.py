"""What methods share: recipes and their parts, learning, rotations on trial, roles of linears."""
