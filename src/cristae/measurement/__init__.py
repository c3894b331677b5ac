"""Measurement: what every instance is, in voxels and in nanometres."""
