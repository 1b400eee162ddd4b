"""What is computed: the list of layers, its Flax modules, and encode and decode as functions."""
