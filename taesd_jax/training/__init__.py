"""Distils and fine-tunes tiny autoencoders; needs optax, grain and orbax."""
