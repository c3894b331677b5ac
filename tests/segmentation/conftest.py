import tempfile
from pathlib import Path

import pytest
from tests.segmentation.helpers import MEMORY_DISK


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: waiting for the disk is not what is tested."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)
