"""Networks of PyTorch Connectomics v1: what they are, their files, how they compute a window."""
