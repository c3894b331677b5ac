"""Every name of the package can be had."""

import cristae


def test_every_public_name_is_there():
    assert all(callable(getattr(cristae, name)) for name in cristae.__all__ if name[0] != "_")
    assert set(dir(cristae)) == set(cristae.__all__)
