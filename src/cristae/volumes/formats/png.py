"""PNG files: what their header says, and their values; palette indices are kept as they are."""

import os
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np

from cristae.errors import InputError
from cristae.volumes.volume import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE = 3
_MOST_EXPANSION = 1100  # bytes from one byte of deflate, and a little more
_FREE_EXPANSION = 1 << 20


def png_header(descriptor: int, size: int) -> tuple[tuple[int, int], int, np.dtype[Any]]:
    """Height and width, samples a pixel, and type of the values of an open PNG file.

    Raises:
        InputError: It is damaged or cut off.
    """
    head = os.pread(descriptor, 33, 0)
    tail = os.pread(descriptor, 12, max(0, size - 12))
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise InputError("cut off (a PNG file without its header)")
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33]):
        raise InputError("damaged (the checksum of the PNG header is another one)")
    if tail[4:8] != b"IEND":
        raise InputError("cut off (a PNG file without its end)")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if depth not in _DEPTHS.get(colour, ()) or not width or not height:
        raise InputError(
            f"found {height} x {width} pixels of {depth} bits and colour type {colour}, "
            "expected a PNG file"
        )
    samples = _SAMPLES[colour]
    if height * width * samples * depth // 8 > size * _MOST_EXPANSION + _FREE_EXPANSION:
        raise InputError(f"found {size} bytes for {height} x {width} pixels: damaged")
    return (height, width), samples, np.dtype(f"u{max(1, depth // 8)}")


def decode_png(data: bytes) -> Array:
    """Values of a PNG file: (y, x), or (y, x, sample).

    A palette's index is the value, whatever its colour; 1 bit is 0 or 1; grey of 2 and 4 bits is
    spread over 0 to 255.

    Raises:
        ValueError: A chunk that is cut off or has another checksum.
        RuntimeError: Pixels that cannot be decoded.
    """
    chunks = _chunks(data)
    depth, colour = data[24], data[25]
    if colour == _PALETTE:  # read as grey, it keeps its indices
        header = data[16:25] + b"\0" + data[26:29]
        pixels = [data[start:stop] for kind, start, stop in chunks if kind == b"IDAT"]
        data = SIGNATURE + _chunk(b"IHDR", header) + b"".join(pixels) + _chunk(b"IEND", b"")
    plane = np.asarray(imagecodecs.png_decode(data))
    if depth == 1 or (colour == _PALETTE and depth < 8):
        plane = plane // (255 // ((1 << depth) - 1))
    return plane


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def _chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Kind, begin and end of every chunk; their checksums are looked at."""
    at, found = len(SIGNATURE), []
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data):
            raise ValueError(f"chunk {kind!r} at byte {at} is cut off")
        if zlib.crc32(memoryview(data)[at + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop]):
            raise ValueError(f"chunk {kind!r} at byte {at} has another checksum than it says")
        found.append((kind, at, stop))
        at = stop
        if kind == b"IEND":
            break
    return found
