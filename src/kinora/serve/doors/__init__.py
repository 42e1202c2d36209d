"""The protocols by which programs use the service."""
