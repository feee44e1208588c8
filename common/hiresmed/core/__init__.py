"""Volumes, coordinates and tiles; errors, knobs, weights, memory. Imports no other package."""
