"""Evaluation: how well predicted instances agree with the truth."""
