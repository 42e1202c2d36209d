"""The page at /: photos are dropped on it, and it calls the service as every door does."""

from fastapi import FastAPI

from kinora.serve.service import Service

__all__ = ["mount_page"]


def mount_page(app: FastAPI, service: Service) -> None:
    """Put the page at / of an application, behind all other routes that it has by now."""
    from kinora.serve.page.mount import mount  # Gradio takes its seconds

    mount(app, service)
