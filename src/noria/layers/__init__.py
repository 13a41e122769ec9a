"""Layers: cells along time, and what stands between them."""
