"""PNG files of 8-bit RGB, read and written without any library, for tests that look at pixels. Part
of cli_test.py."""

import struct
import zlib


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(path, width, height, rgb):
    """rgb: width * height * 3 bytes."""
    rows = b"".join(b"\0" + rgb[y * width * 3 : (y + 1) * width * 3] for y in range(height))
    path.write_bytes(b"\x89PNG\r\n\x1a\n"
                     + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b""))


def _paeth(a, b, c):
    distances = [abs(b - c), abs(a - c), abs(a + b - 2 * c)]
    return (a, b, c)[distances.index(min(distances))]


def read_png(path):
    """(width, height, bytes)."""
    data = path.read_bytes()
    at, packed, header = 8, b"", b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    assert (depth, colour, interlaced) == (8, 2, 0), header
    rows, stride = zlib.decompress(packed), width * 3
    before, result = bytearray(stride), b""
    for y in range(height):
        start = y * (stride + 1)
        method, row = rows[start], bytearray(rows[start + 1 : start + 1 + stride])
        for i in range(stride):
            left, upper_left = (row[i - 3], before[i - 3]) if i >= 3 else (0, 0)
            up = before[i]
            row[i] = (row[i] + (0, left, up, (left + up) // 2, _paeth(left, up, upper_left))[method]
                      ) & 255
        result, before = result + row, row
    return width, height, bytes(result)
