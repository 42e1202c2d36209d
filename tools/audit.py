"""Known vulnerabilities of the packages that constraints.txt pins.

python -m tools.audit [FILE]   (or `make audit`)

Asks OSV (https://osv.dev), which gathers PyPI's and GitHub's advisories. Ends with 0 when there is
none but those below, 1 when there are others, 2 when OSV could not be asked: then nothing is known.
"""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple

OSV: Final = "https://api.osv.dev/v1"
"""Another service with the same protocol may be named in KINORA_OSV."""
SECONDS: Final = 30.0

_NOT_OPENED: Final = "no file of a client is opened by that, and Gradio forbids Pillow 13"
_NOT_CALLED: Final = "Kinora calls nothing of that, and Gradio forbids Pillow 13"

ACCEPTED: Final = {
    "GHSA-q45j-58j2-45rg": "TIFF: not opened by the service, nor where it is so compressed",
    "GHSA-462x-pgg6-55fp": _NOT_OPENED,  # TIFF, as the next one
    "GHSA-c6hw-5grf-ff96": _NOT_OPENED,
    "GHSA-24rc-8hj2-v98c": _NOT_OPENED,  # BMP
    **dict.fromkeys(  # GIF
        (
            "GHSA-22hg-r758-rrw9",
            "GHSA-74r2-7ff9-mjj2",
            "GHSA-fc9g-5qg7-mf45",
            "GHSA-65qm-jvmh-6pqg",
        ),
        _NOT_OPENED,
    ),
    # A JPEG within another format, which says another size than the JPEG does.
    "GHSA-5x8w-8jj5-q52h": _NOT_OPENED,
    "GHSA-8g5g-8vmr-9782": _NOT_OPENED,
    # EXIF that takes long: readers have little time and memory.
    "GHSA-g4qv-2jxx-769h": "a reader's time is bounded",
    "GHSA-wqgw-9xfh-qf2g": "a reader's time and memory are bounded",
    # A TIFF encoder with a file object.
    "GHSA-332p-7hrc-92wf": _NOT_CALLED,
    "GHSA-xcvg-w56q-r89m": _NOT_CALLED,
    "GHSA-xvh5-g6gv-559v": _NOT_CALLED,
    "GHSA-4rr5-89j8-mwwm": _NOT_CALLED,
    # Gradio: needs its server-side rendering, which is off.
    "CVE-2026-134825": "Gradio's routes but a few are closed, and its rendering on a server is off",
    # torch: needs a PT2 file; Kinora opens safetensors only.
    "CVE-2026-136426": "Kinora loads no PT2 files",
}
"""Advisories that don't concern us, by one of their names, and why."""


class Known(NamedTuple):
    """A vulnerability of a pinned package."""

    pin: str
    id: str
    aliases: frozenset[str]
    fixed: tuple[str, ...]
    """Versions without it."""
    summary: str


def pins(file: Path) -> dict[str, str]:
    """Versions by package."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(), re.MULTILINE))


def known(pinned: dict[str, str], service: str) -> list[Known]:
    """Raises OSError or ValueError when the service can't be asked."""
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": version}
        for name, version in pinned.items()
    ]
    found = _asked(f"{service}/querybatch", {"queries": queries})["results"]
    if len(found) != len(queries):
        raise ValueError(f"{len(found)} answers to {len(queries)} questions")
    vulnerable = [
        (name, version, one["id"])
        for (name, version), answer in zip(pinned.items(), found, strict=True)
        for one in answer.get("vulns", [])
    ]
    return [_detail(service, name, version, id) for name, version, id in vulnerable]


def _detail(service: str, name: str, version: str, id: str) -> Known:
    told = _asked(f"{service}/vulns/{id}")
    fixed = {
        event["fixed"]
        for affected in told.get("affected", [])
        if affected.get("package", {}).get("name", "").lower() == name.lower()
        for range_ in affected.get("ranges", [])
        if range_.get("type") == "ECOSYSTEM"
        for event in range_.get("events", [])
        if "fixed" in event
    }
    summary = told.get("summary") or told.get("details", "").partition("\n")[0]
    aliases = frozenset((id, *told.get("aliases", [])))
    return Known(f"{name}=={version}", id, aliases, tuple(sorted(fixed)), summary)


def _asked(url: str, question: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 (JSON)
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def main(file: str = "constraints.txt") -> int:
    service = os.environ.get("KINORA_OSV", OSV)
    pinned = pins(Path(file))
    try:
        found = known(pinned, service)
    except (OSError, ValueError) as error:
        print(f"{service} can't be asked ({error}): nothing is known of {file}", file=sys.stderr)
        return 2
    others = {one.aliases: one for one in found if not one.aliases & ACCEPTED.keys()}
    for one in sorted(others.values()):
        fixed = f"fixed in {', '.join(one.fixed)}" if one.fixed else "no fixed version"
        print(f"{one.pin}  {one.id}  {fixed}\n    {one.summary}")
    accepted = len({one.aliases for one in found}) - len(others)
    print(f"{len(pinned)} packages: {len(others)} known vulnerabilities, {accepted} accepted ones")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
