"""Layers: cells along time, and the layers between them."""
