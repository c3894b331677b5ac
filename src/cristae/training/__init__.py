"""Training: labels to targets, patches, augmentation, losses and the one loop."""
