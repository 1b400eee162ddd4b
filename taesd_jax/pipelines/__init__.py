"""Adapters for pipelines that others wrote, one file each."""
