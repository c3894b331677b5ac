"""Prediction: volumes of any size through a network."""
