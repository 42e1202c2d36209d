"""Kinora turns a still photo into a short video with Stable Video Diffusion."""

__version__ = "0.1.0"
