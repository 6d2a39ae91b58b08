"""Layers and networks: features in, distributions out."""
