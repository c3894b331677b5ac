"""Volumes: every source read box by box, converted, simulated."""
