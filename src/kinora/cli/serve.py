"""`kinora serve`, `kinora worker` and `kinora token`: Kinora as a service."""

import json as jsonlib
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kinora.amounts import parse_bytes
from kinora.cli import options
from kinora.cli.check import check_folder
from kinora.cli.chosen import Chosen
from kinora.cli.say import remark, result
from kinora.cli.session import out_of_memory
from kinora.errors import RequestError
from kinora.spelled import parse_count, parse_networks, parse_number

__all__ = ["serve", "token", "worker"]

Data = Annotated[
    Path,
    typer.Option(
        "--data", metavar="FOLDER", help="Where jobs, photos and clips are kept; made if missing."
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="PostgreSQL database that several machines share; SQLite in --data when left out.",
        show_default=False,
        envvar="KINORA_DATABASE",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Where photos and clips lie, for several machines: a shared folder, or s3://…",
        show_default=False,
        envvar="KINORA_STORAGE",
    ),
]
DATA = Path("kinora-data")


def serve(
    model: options.Model = "nano",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen.", envvar="KINORA_HOST")
    ] = "127.0.0.1",
    port: Annotated[str, typer.Option(metavar="N", help="0 takes a free one.")] = "7860",
    data: Data = DATA,
    database: Database = None,
    storage: Storage = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="What clients must show; needed for any --host that others can reach. "
            "Better in KINORA_TOKEN or a --token-file: others see it in the list of processes.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The same token from a file, which no list of processes shows.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Clients with tokens of their own: lines that `kinora token` prints.",
            show_default=False,
        ),
    ] = None,
    proxies: Annotated[
        str,
        typer.Option(
            "--proxies",
            metavar="ADDRESSES",
            help="Proxies whose X-Forwarded-For is believed: addresses or networks, with commas.",
            show_default=False,
            envvar="KINORA_PROXIES",
        ),
    ] = "",
    work: Annotated[
        bool, typer.Option("--work/--no-work", help="Whether a worker runs on this machine too.")
    ] = True,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether there is a page.")] = True,
    queue: Annotated[
        str, typer.Option(metavar="N", help="Jobs that may wait, of all clients.")
    ] = "1000",
    keep_days: Annotated[str, typer.Option(metavar="DAYS", help="How long clips are kept.")] = "30",
    keep_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Room for all clips; the oldest go first.")
    ] = "20GiB",
    device: options.Device = None,
    dtype: options.DType = None,
    vae_dtype: options.VaeDType = None,
    quantize: options.Quantize = None,
    compiled: options.Compile = False,
    tf32: options.Tf32 = False,
    variant: options.Variant = None,
    memory: options.Memory = None,
) -> None:
    """Serve clips over HTTP, with a page to make them from.

    \b
    kinora serve
    kinora serve --model svd-xt --data /srv/kinora
    kinora serve --host 0.0.0.0 --tokens tokens.jsonl
    """
    chosen = Chosen(
        model=model,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        quantize=quantize,
        compiled=compiled,
        tf32=tf32,
        variant=variant,
        memory=memory,
    )
    check_folder(data)
    number = 0 if port == "0" else parse_count("port", port, 65535)
    days = parse_number("keep_days", keep_days)
    if not 0 < days <= 36500:
        raise RequestError(f"keep_days {keep_days}: must be more than 0, at most 36500")
    waiting = parse_count("queue", queue, 1_000_000)
    room = parse_bytes("keep_size", keep_size)
    token = _one_token(token, token_file)
    trusted = parse_networks("proxies", proxies)
    with _extra():
        from kinora.serve.access import Access
        from kinora.serve.run import run_service
        from kinora.serve.settings import Limits, Settings

        limits = Limits(queue=waiting, keep_days=days, keep_bytes=room)
        settings = Settings(
            data=data, model=model, database=database, storage=storage, limits=limits
        )
        command = [sys.executable, "-m", "kinora", "worker", "--attached", "--data", str(data)]
        command += chosen.arguments()
        # Not as arguments: everybody on the machine could read the password there.
        environment = {"KINORA_DATABASE": database, "KINORA_STORAGE": storage}
        run_service(
            settings,
            Access.of(token, tokens, limits.requests),
            host=host,
            port=number,
            worker=command if work else None,
            environment={name: value for name, value in environment.items() if value},
            page=page,
            proxies=trusted,
        )


def worker(
    model: options.Model = "nano",
    data: Data = DATA,
    database: Database = None,
    storage: Storage = None,
    device: options.Device = None,
    dtype: options.DType = None,
    vae_dtype: options.VaeDType = None,
    quantize: options.Quantize = None,
    compiled: options.Compile = False,
    tf32: options.Tf32 = False,
    variant: options.Variant = None,
    memory: options.Memory = None,
    attached: Annotated[
        bool, typer.Option("--attached", hidden=True, help="Leave when standard input ends.")
    ] = False,
) -> None:
    """Make the clips that a service is asked for, on this machine or another one.

    \b
    kinora worker --model svd-xt --database postgresql://… --storage s3://…
    """
    chosen = Chosen(
        model=model,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        quantize=quantize,
        compiled=compiled,
        tf32=tf32,
        variant=variant,
        memory=memory,
    )
    check_folder(data)
    if database is None and not data.exists():
        raise RequestError(
            f"{data}: no such folder. Name the service's own as --data, or the --database that "
            "it shares"
        )
    with _extra(), out_of_memory("choose a smaller --model, or --dtype float16"):
        import huggingface_hub.utils

        from kinora.serve.logs import start_logs
        from kinora.serve.settings import Settings
        from kinora.serve.worker import run_worker

        start_logs(huggingface_hub.utils)
        settings = Settings(data=data, model=model, database=database, storage=storage)
        run_worker(settings, chosen.load, attached=attached)


def token(
    name: Annotated[str, typer.Argument(help="What the client is called, in logs and quotas.")],
    jobs: Annotated[
        str | None,
        typer.Option(metavar="N", help="Jobs of its that may wait.", show_default=False),
    ] = None,
    requests: Annotated[
        str | None,
        typer.Option(metavar="N", help="Requests a minute.", show_default=False),
    ] = None,
) -> None:
    """Make a token for a client: it is told once; the line is for the --tokens file.

    \b
    kinora token alice --jobs 20 >> tokens.jsonl
    """
    with _extra():
        from kinora.serve.access import check_name, hashed, new_token

        check_name(name)
        made = new_token()
        line: dict[str, str | int] = {"name": name, "sha256": hashed(made)}
        if jobs is not None:
            line["jobs"] = parse_count("jobs", jobs, 1_000_000)
        if requests is not None:
            line["requests"] = parse_count("requests", requests, 1_000_000)
        remark(f"The token of {name}, which is kept nowhere: {made}")
        result(jsonlib.dumps(line))


def _one_token(token: str | None, file: Path | None) -> str | None:
    """The token that all clients share, if there is one. Raises RequestError."""
    if file is not None and token is not None:
        raise RequestError("--token and --token-file: name one of them")
    if file is not None:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeError) as error:
            raise RequestError(f"{file}: can't be read ({error}). It must hold a token") from error
    if token is not None:
        remark(
            "Everybody on this machine can read --token in the list of processes: "
            "use --token-file, or KINORA_TOKEN"
        )
        return token
    return os.environ.get("KINORA_TOKEN")  # an empty one too, which is refused later


@contextmanager
def _extra() -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise RequestError(
            f"{error.name} is missing, which a service needs: pip install 'kinora[serve]'"
        ) from error
