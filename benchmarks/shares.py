"""What the time of a clip goes into.

    python -m benchmarks.shares --json shares.json

The bundled model's clip under torch's profiler, by kinds of work: shares of the time in which torch
computes. Run from the root of the repository.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import kinora
from kinora.events import Done, Encoded, Event, Sampled

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "convolutions": ("convolution",),
    "products of matrices": ("linear", "mm"),
    "attention": ("attention",),
    "SiLU, GELU": ("silu", "gelu"),
    "norms": ("norm",),
    "copies": ("copy", "cat", "clone", "index_put"),
}
"""What the names of torch's operations hold; the first kind that fits counts."""
PHASES: Final[dict[str, Callable[[Event], bool]]] = {
    "encoding": lambda event: isinstance(event, Encoded),
    "sampling": lambda event: isinstance(event, Sampled) and event.step == event.steps,
    "decoding": lambda event: isinstance(event, Done),
}
"""Of a clip, and what ends them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", default="examples/rocket.jpg")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = kinora.load(options.model, device="cpu")
    request = kinora.Request(image=options.photo, steps=options.steps, seed=0)
    pipe.animate(options.photo, steps=1, seed=0)  # packs weights

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        play(pipe, request)
    shares = summed(seen)
    print("| phase | what | share |\n|---|---|---|")
    for (phase, kind), share in shares.most_common():
        print(f"| {phase} | {kind} | {share:.1%} |")
    if options.json:
        rows = [
            {"name": f"{phase}, {kind}", "ours": share, "unit": "of the time"}
            for (phase, kind), share in shares.most_common()
        ]
        options.json.write_text(json.dumps(rows, indent=1))


def play(pipe: kinora.Pipeline, request: kinora.Request) -> None:
    """A clip, whose phases the profiler is told of."""
    events = pipe.stream(request)
    for phase, ends in PHASES.items():
        with record_function(phase):
            next(event for event in events if ends(event))


def summed(seen: profile) -> Counter[tuple[str, str]]:
    """Shares of all operations' own time, by phase and kind."""
    events = list(seen.events() or [])
    spans = [(e.name, e.time_range) for e in events if e.name in PHASES]
    found: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.name in PHASES:
            continue
        for phase, span in spans:
            if span.start <= event.time_range.start < span.end:
                found[phase, kind_of(event.name)] += event.self_cpu_time_total
    total = sum(found.values())
    return Counter({key: time / total for key, time in found.items()})


def kind_of(name: str) -> str:
    fitting = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
    return next(fitting, "all else")


if __name__ == "__main__":
    main()
