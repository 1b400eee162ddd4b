"""How a component runs: in full, in strips of rows or in tiles, in slices of a batch, on a mesh."""
