"""Samples: labelled volumes to learn from and to score with, and data sets of them."""
