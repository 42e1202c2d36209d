"""Values as people write them: on a command line, in a form."""

import ipaddress
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from kinora.errors import RequestError

__all__ = [
    "parse_count",
    "parse_fields",
    "parse_integer",
    "parse_networks",
    "parse_number",
    "parse_size",
]


def parse_integer(name: str, text: str) -> int:
    """A whole number. Raises RequestError when it is none."""
    if not re.fullmatch(r"[+-]?\d{1,40}", text.strip()):
        raise RequestError(f"{name} {text!r}: must be a whole number")
    return int(text)


def parse_count(name: str, text: str, high: int) -> int:
    """A whole number from 1 to `high`. Raises RequestError for any other."""
    value = parse_integer(name, text)
    if not 1 <= value <= high:
        raise RequestError(f"{name} {text}: must be a whole number from 1 to {high}")
    return value


def parse_number(name: str, text: str) -> float:
    """A number. Raises RequestError when it is none."""
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{name} {text!r}: must be a number") from None


def parse_size(name: str, text: str) -> tuple[int, int]:
    """Width and height of "1024x576". Raises RequestError when it is no such thing."""
    match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text.strip())
    if match is None:
        raise RequestError(f"{name} {text!r}: must be width and height such as 1024x576")
    return int(match[1]), int(match[2])


def parse_networks(name: str, text: str) -> list[str]:
    """Addresses or networks, with commas between them; none of an empty text.

    Raises RequestError when one is neither.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found:
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            raise RequestError(
                f"{name} {part!r}: must be an address such as 127.0.0.1, or a network such as "
                f"10.0.0.0/8 ({error})"
            ) from None
    return found


def _range(name: str, text: str, *, example: str) -> tuple[float, float]:
    """Two numbers of "1:3", or one twice."""
    try:
        numbers = [float(number) for number in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise RequestError(f"{name} {text!r}: must be two numbers such as {example}, or one")
    return numbers[0], numbers[-1]


PARSERS: Final = {
    "frames": parse_integer,
    "size": parse_size,
    "steps": parse_integer,
    "fps": parse_integer,
    "motion": parse_integer,
    "noise_aug": parse_number,
    "guidance": partial(_range, example="1:3"),
    "seed": parse_integer,
    "guidance_interval": partial(_range, example="0.1:50"),
    "guidance_every": parse_integer,
    "inner_every": parse_integer,
    "decode_chunk": parse_integer,
}


def parse_fields(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Fields of `Request` by their names, from texts; what is left out stays None.

    Raises RequestError for a text that can't be read; `Request` itself checks the values.
    """
    return {
        name: text if text is None or name not in PARSERS else PARSERS[name](name, text)
        for name, text in texts.items()
    }
