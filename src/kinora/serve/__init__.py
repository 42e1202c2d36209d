"""Kinora as a service: a durable queue, worker processes, three HTTP protocols, a page.

The process that answers requests imports no torch; workers do.
"""

__all__: list[str] = []
