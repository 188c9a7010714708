"""From training to a server that answers: ``make serve-demo``; minutes, no GPU, no download.

Trains on a made-up shop, exports, starts a real Triton server on the loopback, asks for users by
their raw columns, and swaps in a retrained index while clients ask.
"""

from __future__ import annotations

import argparse
import shlex
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from workflows.serving.client import Client, under_load
from workflows.serving.shop import Shop, make_shop
from workflows.serving.training import Trained
from workflows.serving.triton_server import (
    NoTritonServer,
    TritonServer,
    find_installation,
    triton_server,
)

MODEL = "retrieval"
K = 5
SHOWN_USERS = 3
CLIENTS = 4

Tell = Callable[[str], None]


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    options = _options(arguments)
    try:
        find_installation()
    except NoTritonServer as missing:
        raise SystemExit(f"needs a Triton server: {missing}") from missing
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"\n[{time.perf_counter() - started:5.1f} s] {what}", flush=True)

    with TemporaryDirectory() as folder:
        run(Path(folder), options, tell)
    tell("The server has stopped.")


def run(folder: Path, options: argparse.Namespace, tell: Tell) -> None:
    """Train, export, serve, swap; all files are in ``folder``."""
    shop = make_shop(options.users, options.items, options.taken)
    tell(f"Training on {len(shop.pairs):,} pairs of {options.users:,} users.")
    trained = Trained.of(shop, folder / "statistics", options.epochs)
    tell("Exporting the tower and its index.")
    repository = folder / "repository"
    served = trained.export(repository, folder / "first.index", name=MODEL)
    print(f"Version {served.version}. The server needs: pip install {shlex.join(served.requires)}")
    tell("Starting the server.")
    with triton_server(repository) as server:
        print(f"HTTP {server.http}, gRPC {server.grpc}, http://{server.metrics_address}/metrics")
        tell(f"{SHOWN_USERS} users, without what they have taken:")
        print(answers_for(server, shop))
        tell(f"{CLIENTS} clients, a user a request:")
        measure(server, shop, options.seconds, lambda: None)
        tell("Training on, and exporting the next version beside the first.")
        trained.go_on(1)
        trained.export(repository, folder / "second.index", name=MODEL)
        tell(f"Swapping it in while {CLIENTS} clients ask:")
        measure(server, shop, options.seconds, lambda: server.load(MODEL))
        tell("The same users, by the retrained index:")
        print(answers_for(server, shop))


def answers_for(server: TritonServer, shop: Shop) -> str:
    """What the first users get, with titles and scores."""
    users = shop.users.head(SHOWN_USERS)
    taken = shop.pairs.groupby("user_id")["item_id"].agg(list)
    client = Client(server.grpc, MODEL)
    found, version = client.ask(users, k=K, exclude=taken[users["user_id"]].tolist())
    client.close()
    lines = []
    for row, user in enumerate(users.itertuples()):
        lines.append(f"{user.user_id}, age {user.age}, {user.city}: by version {version}")
        for rank in range(int(found["counts"][row, 0])):
            key, title = (found[name][row, rank].decode() for name in ("item_ids", "titles"))
            lines.append(f"  {rank + 1}. {title} ({key})  {found['scores'][row, rank]:.3f}")
    return "\n".join(lines)


def measure(
    server: TritonServer, shop: Shop, seconds: float, meanwhile: Callable[[], None]
) -> None:
    """Print what clients see for ``seconds``, with something that happens in the middle."""
    with under_load(server.grpc, MODEL, shop.users, k=K, clients=CLIENTS) as load:
        time.sleep(seconds / 2)
        meanwhile()
        time.sleep(seconds / 2)
    print(load)
    if load.failures:
        raise RuntimeError(f"expected an answer to each request, got {load.failures[0]}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--taken", type=int, default=30, help="items of each user")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="that clients ask for")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
