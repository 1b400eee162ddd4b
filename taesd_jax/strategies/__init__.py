"""How a model runs: whole, in strips of rows or in tiles, in slices of a batch, on many devices."""
