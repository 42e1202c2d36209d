"""The protocols by which programs use the service."""

__all__: list[str] = []
