"""Segmentation: from a prediction to instances, exact at any size and block shape."""
