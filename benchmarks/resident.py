"""What a process holds in memory (Linux)."""

from pathlib import Path

__all__ = ["resident"]


def resident(key: str) -> int:
    """A line of the process's own memory account, in bytes: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")
