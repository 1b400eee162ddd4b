"""Distils and fine-tunes tiny autoencoders; needs optax."""
