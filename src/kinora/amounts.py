"""Amounts of memory, as people write them."""

import re
from typing import Final

from kinora.arguments import shown
from kinora.errors import RequestError

__all__ = ["parse_bytes", "say_bytes"]

UNITS: Final = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_bytes(name: str, text: str | int) -> int:
    """Bytes of "6GiB", "5.5 GB", "800MiB" or a number of bytes. Raises RequestError."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", str(text).strip())
    unit = None if match is None else UNITS.get(match[2].upper())
    if match is None or unit is None or (count := int(float(match[1]) * unit)) < 1:
        raise RequestError(f"{name} {shown(str(text))}: must be an amount such as 6GiB or 800MB")
    return count


def say_bytes(count: int) -> str:
    """In GiB, with one digit; small amounts in MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
