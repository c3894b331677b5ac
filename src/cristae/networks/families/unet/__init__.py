"""cristae's own U-Net: what it is, what a logit depends on, how it computes a tile."""
