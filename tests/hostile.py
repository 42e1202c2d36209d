"""Picture files as somebody would make them who means harm."""

import io
import struct

from PIL import Image

WIDTH, HEIGHT = 300, 200


def short_tiff(compression: str = "jpeg", rows: int = 8, height: int = HEIGHT) -> bytes:
    """A TIFF of one strip, whose data has fewer rows than it says.  (GHSA-q45j-58j2-45rg)"""
    mode = "1" if compression.startswith("group") else "L"
    file = io.BytesIO()
    Image.new(mode, (WIDTH, rows), 1).save(
        file, "TIFF", compression=compression, tiffinfo={278: rows}
    )
    data = bytearray(file.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from("<HH", data, at)
        if tag in (257, 278):  # ImageLength, RowsPerStrip
            struct.pack_into("<H" if kind == 3 else "<I", data, at + 8, height)
    return bytes(data)


def slow_jpeg(side: int = 1000, scans: int = 12_000) -> bytes:
    """A small JPEG that takes its decoder many seconds: its last scan comes again and again."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).save(file, "JPEG", progressive=True, quality=30)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]
