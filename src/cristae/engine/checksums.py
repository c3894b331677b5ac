"""Checksums that a zip file carries, which readers of one member at a time leave aside."""

import zipfile
import zlib
from pathlib import Path

from cristae.errors import InputError

_PART = 1 << 22


def check_zip(path: Path) -> None:
    """Look at the checksum of every member of a zip; one that carries none is let through.

    Raises:
        InputError: The first member whose bytes do not fit its checksum, or that cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged: {error}; copy it here again") from error
    with archive:
        members = archive.infolist()
        if not any(member.CRC for member in members):  # torch writes such ones where it is told to
            return
        for member in members:
            try:
                with archive.open(member) as file:
                    while file.read(_PART):
                        pass
            except (
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
                ValueError,
                NotImplementedError,
                RuntimeError,
            ) as error:
                raise InputError(
                    f"{path}: damaged: {member.filename} does not fit the checksum that the file "
                    f"carries ({error}); copy it here again"
                ) from error
