"""The time from the start of the process to readiness, with an empty database and with one used before."""

from bench.scenarios.context import Context
from bench.servers.server import Server, free_port


def measure(context: Context) -> None:
    """Start each contender twice on one new database in each run."""
    for run in context.runs():
        for contender in context.order(run, context.durable):
            with context.postgres.database() as url:
                for state in ("empty", "used"):
                    row = f"{contender.key} {state}"
                    with context.row("start", row), Server(contender, url, free_port(), context.folder) as server:
                        context.keep("start", row, run, {"ready_s": server.seconds_to_ready})
