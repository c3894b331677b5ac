import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("ci")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout."""
    if not SHARED.is_dir():
        if os.environ.get("CRISTAE_REQUIRE_SHARED") == "1":
            pytest.fail(f"reference data expected at {SHARED}")
        pytest.skip("needs the reference data in ../shared")
    return SHARED


@pytest.fixture(autouse=True)
def quiet_after():
    """Commands start logging; tests after these shall not hear of it."""
    logger = logging.getLogger("cristae")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = before
