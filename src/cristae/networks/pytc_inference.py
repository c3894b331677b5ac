"""A network of PyTorch Connectomics v1 on one window, prepared for the CPU."""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cristae.grid import Box, Triple
from cristae.networks.inference import DTYPES, Precision
from cristae.networks.pytc import PytcConfig, PytcNetwork, pytc_probabilities


class WindowNetwork:
    """A network made ready for inference on the CPU.

    Args:
        network: Trained network; it is copied.
        precision: Of all layers.
    """

    def __init__(self, network: PytcNetwork, precision: Precision) -> None:
        self.config = network.config
        self.precision = precision
        self._dtype = DTYPES[precision]
        self._network = copy.deepcopy(network).eval().to(self._dtype)

    @torch.no_grad()
    def probabilities(self, image: NDArray[np.float32], core: Box) -> Tensor:
        """Outputs in [0, 1] of a part of a window.

        Args:
            image: (z, y, x) window, normalised.
            core: The part wanted, in voxels of the window.

        Returns:
            (channels, z, y, x) float32 of the core's shape.
        """
        window = torch.from_numpy(image)[None, None].to(self._dtype)
        logits = self._network(window).float()
        part = (0, slice(None), *core.slices())
        return pytc_probabilities(self.config, logits)[part]


def window_bytes(config: PytcConfig, window: Triple, precision: Precision) -> int:
    """Upper bound of the memory `WindowNetwork.probabilities` takes, the window itself apart."""
    width = 4 if precision == "float32" else 2
    return int(math.prod(window) * config.widths[0] * width * 8)
