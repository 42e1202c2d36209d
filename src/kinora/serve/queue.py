"""The durable queue: DBOS, in the database that the jobs lie in."""

from typing import Final

import sqlalchemy as sa
from dbos import DBOSClient

from kinora.serve.database import Database
from kinora.serve.job import Job

__all__ = ["APPLICATION", "VERSION", "WORKFLOW", "Queue", "queue_of"]

APPLICATION: Final = "kinora"
WORKFLOW: Final = "clip"
VERSION: Final = "1"
"""Of the workflow's steps: a job begun under another one is not gone on with."""


def queue_of(model: str) -> str:
    """The queue that workers with this model take from."""
    return f"clips of {model}"


class Queue:
    """The side from which jobs are put into the queue."""

    def __init__(self, database: Database) -> None:
        self.client = DBOSClient(
            system_database_engine=database.engine,
            application_name=APPLICATION,
            retry_connection_errors=False,
        )

    def put(self, c: sa.Connection, job: Job) -> None:
        """Part of the transaction that makes the job: both are there, or neither."""
        self.client.enqueue_in_transaction(
            c,
            {
                "workflow_name": WORKFLOW,
                "queue_name": queue_of(job.model),
                "workflow_id": job.id,
                "app_version": VERSION,
                "priority": job.turn,
            },
            job.id,
        )

    def forget(self, id: str) -> None:
        """What the queue knows of a job that has ended."""
        self.client.delete_workflow(id)

    def close(self) -> None:
        self.client.destroy()
