"""Previews out of a running sampler, and where they go."""
