"""`headwater serve`."""

from __future__ import annotations

import os
import secrets
import socket
import webbrowser
from typing import Annotated

import typer

from headwater.cli.console import answers, print_json, print_note
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import QUERY_FLAGS, Places, labelled, open_indexes
from headwater.errors import HeadwaterError, UsageError

app = typer.Typer(rich_markup_mode="rich", add_completion=False)

_PORTS = range(8765, 8775)


@app.command(
    epilog=examples(
        "headwater serve runs/first",
        "headwater serve runs/first --queries test.jsonl --port 9000 --no-browser",
    )
)
@takes(plain=QUERY_FLAGS)
def serve(
    places: Places,
    *,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts with labels, columns called as in training; if not given, the run's own evaluation rows.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Where to listen. Anything but loopback lets others in, with the token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="N", help="If not given, the first free one from 8765.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser at the page.")] = True,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Open the workbench in a browser: see why, mark rows, repair, retrain, prove.

    The link holds a token, without which nobody gets in; the environment variable HEADWATER_TOKEN sets it.
    """
    try:
        import uvicorn

        from headwater.web.app import create_app
    except ImportError as error:
        raise UsageError("the workbench needs FastAPI and uvicorn: pip install 'headwater[web]'.") from error
    from headwater.web.state import Workbench

    held = _listen(host, port)
    index = open_indexes(places, plain)
    texts = None if queries is None and index.run.eval_corpus is None else labelled(index.run, queries, plain)
    workbench = Workbench(index, texts)
    token = os.environ.get("HEADWATER_TOKEN") or secrets.token_urlsafe(24)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(workbench, token=token, hosts=[host]),
            log_level="warning",
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=2 << 20,  # a typed text stands in the address, up to nine bytes a letter
        )
    )
    shown = f"[{host}]" if ":" in host else host
    link = f"http://{shown}:{held.getsockname()[1]}/?token={token}"
    if host not in ("127.0.0.1", "localhost", "::1"):
        print_note(f"listening on {host}: whoever has the link can read the training texts, and start retrainings.")
    if as_json:
        print_json({"url": link, "token": token, "port": held.getsockname()[1], "process": os.getpid()})
    else:
        console = answers()
        console.print(f"The workbench of {index.run.name} is at", markup=False, soft_wrap=True)
        console.print(f"  {link}", markup=False, soft_wrap=True)
        console.print("Stop it with Ctrl-C.", markup=False)
    if browser:
        webbrowser.open(link)
    server.run(sockets=[held])


def _listen(host: str, port: int | None) -> socket.socket:
    """Take the port before the index is opened, so that a port in use is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in _PORTS if port is None else [port]:
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, wanted))
            held.listen(128)
        except OSError as error:
            held.close()
            last: OSError = error
            continue
        return held
    which = "each of the ports 8765 to 8774" if port is None else f"port {port}"
    raise HeadwaterError(f"cannot listen at {host}, {which}: {last.strerror}. Choose another with --port.")
