"""Tuning: the search for the thresholds of a decoder."""
