"""The precisions that networks compute in, and the processor as a device."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU = torch.device("cpu")
