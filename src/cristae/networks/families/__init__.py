"""Families: one file for each kind of network, and one table."""
