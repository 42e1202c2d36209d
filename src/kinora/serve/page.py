"""(page)"""

from fastapi import FastAPI

from kinora.serve.service import Service


def mount_page(app: FastAPI, service: Service) -> None: ...
