"""What a clip was made with, as text that fits into the metadata of any file."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from kinora.errors import RequestError

__all__ = ["Label", "plain"]


class Label(NamedTuple):
    """What a file of ours says about itself, beside its frames."""

    recipe: dict[str, Any]
    frames: int
    fps: int
    size: tuple[int, int]
    """Width and height; H.264 files of odd size are a pixel larger."""

    def to_text(self) -> str:
        """JSON in plain ASCII, which survives every container."""
        return json.dumps(
            {"kinora": self.recipe, "frames": self.frames, "fps": self.fps, "size": self.size}
        )

    @staticmethod
    def from_text(text: object) -> "Label | None":
        """Read what `to_text` wrote; None where it is anything else, such as a plain comment."""
        try:
            if isinstance(text, bytes):
                text = text.decode("ascii")
            values = json.loads(cast(str, text))
            width, height = (int(side) for side in values["size"])
            fps, frames = int(values["fps"]), int(values["frames"])
            recipe = values["kinora"]
        except (KeyError, RecursionError, TypeError, ValueError):
            return None
        if not isinstance(recipe, dict) or min(width, height, fps, frames) < 1:
            return None
        return Label(cast(dict[str, Any], recipe), frames, fps, (width, height))


def plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as JSON gives it back: tuples become lists, keys become strings.

    Raises RequestError when it holds what JSON can't.
    """
    try:
        return json.loads(json.dumps(dict(recipe), allow_nan=False))
    except (RecursionError, TypeError, ValueError) as error:
        raise RequestError(f"the recipe can't be stored as JSON: {error}") from error
