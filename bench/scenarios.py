"""The measurements, one function each: what is run, in which order, and in which section its values are kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import viewers
from bench.contenders import CHATTERD, RUST
from bench.failure import Failed
from bench.measure import Reading, Site, cpu_us_per_line, site
from bench.plan import Plan
from bench.postgres import Postgres, fill_conversations, fill_with_others
from bench.results import Results, Values
from bench.servers import Contender, Server, free_port
from bench.table import doubts
from bench.traffic import Traffic, steady

FIRST_LINES = 2
"""Lines of the replies whose first event counts, so fast that none waits for the next."""

FIRST_RATE = 1_000


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement uses.

    :param folder: for the servers' output.
    :param say: tells whoever waits what is being done.
    """

    plan: Plan
    contenders: list[Contender]
    postgres: Postgres
    folder: Path
    results: Results
    say: Callable[[str], None]

    def site(self, contender: Contender = CHATTERD) -> AbstractContextManager[Site]:
        """A contender, started for a ``with`` block."""
        return site(self.postgres, contender, self.folder, self.say)

    @contextmanager
    def row(self, section: str, row: str) -> Iterator[None]:
        """Measure within the block; if it cannot be done, say so and go on after it."""
        try:
            yield
        except Failed as error:
            self.results.fail(section, row, str(error))
            self.say(f"{section}, {row}: {error}")

    def keep(self, section: str, row: str, values: Values) -> None:
        """Keep what a run gave."""
        self.results.add(section, row, values)
        self.say(f"{section}, {row}: {_brief(values)}{doubts({name: [value] for name, value in values.items()})}")

    def ours_and_rust(self) -> list[Contender]:
        """Those that are compared in every plot."""
        return [CHATTERD, *(one for one in self.contenders if one.key == RUST and not one.missing)]


def table(bench: Bench) -> None:
    """Every contender in turns, the same load: its prompts all at once first, then spread."""
    for _ in range(bench.plan.runs):
        for contender in bench.contenders:
            with bench.row("table", contender.key), bench.site(contender) as server:
                burst = server.run_to_the_end(_burst(bench.plan))
                values = server.run(_steady(bench.plan, *bench.plan.table))
                at_once = {f"burst_{name}": value for name, value in burst.items() if not name.startswith("latency")}
                bench.keep("table", contender.key, values | at_once | {"ready_s": server.server.seconds_to_ready})


def latency(bench: Bench) -> None:
    """One process on one core, from few fast streams to many slow ones."""
    for _ in range(bench.plan.runs):
        for streams, rate in bench.plan.latency:
            row = f"{streams:,} x {rate:g}"
            with bench.row("latency", row), bench.site() as server:
                bench.keep("latency", row, server.run(_steady(bench.plan, streams, rate)))


def first(bench: Bench) -> None:
    """From a prompt to the first event, on an idle server: without it, with a new database, with a large one."""
    for _ in range(bench.plan.runs):
        with bench.row("first", "direct"), bench.site() as server:
            bench.keep("first", "direct", server.run_to_the_end(_one_by_one(bench.plan.prompts, direct=True)))
            bench.keep("first", "new", server.run_to_the_end(_one_by_one(bench.plan.prompts)))
        for contender in bench.ours_and_rust():
            row = f"burst {contender.key}"
            with bench.row("first", row), bench.site(contender) as server:
                bench.keep("first", row, server.run_to_the_end(_burst(bench.plan)))
    if bench.plan.rows:
        with bench.row("first", "large"), bench.site() as server:
            bench.say(f"first: writing {bench.plan.rows:,} messages")
            fill_with_others(server.database_url, bench.plan.rows, bench.plan.one_in, "large")
            for _ in range(bench.plan.runs):
                values = server.run_to_the_end(_one_by_one(bench.plan.prompts, appid="large", one_conversation=True))
                bench.keep("first", "large", values)


def memory(bench: Bench) -> None:
    """Of streaming replies with a viewer each; of viewers of a reply that is silent."""
    for _ in range(bench.plan.runs):
        for replies in bench.plan.replies:
            for contender in bench.ours_and_rust():
                row = f"{contender.key} {replies}"
                with bench.row("memory", row), bench.site(contender) as server:
                    bench.keep("memory", row, server.run(_few_lines(bench.plan, replies)))
        with bench.row("memory", "viewers"), bench.site() as server:
            for count, values in viewers.idle(server, bench.plan.viewers):
                bench.keep("memory", f"viewers {count}", values)


def long(bench: Bench) -> None:
    """A long reply, in its first and in its last seconds; prompts after a long history."""
    for _ in range(bench.plan.runs):
        with bench.row("long", "reply"), bench.site() as server:
            begin, end = _edges(_ticks(server, Traffic(1, bench.plan.long_rate, bench.plan.long_lines, appid="long")))
            bench.keep("long", "reply", {"begin_us": cpu_us_per_line(*begin), "end_us": cpu_us_per_line(*end)})
    with bench.row("long", "history"), bench.site() as server:
        bench.say("long: writing conversations")
        for messages in bench.plan.history:
            fill_conversations(server.database_url, f"history{messages}", bench.plan.history_prompts, messages)
        for _ in range(bench.plan.runs):
            for messages in bench.plan.history:
                traffic = _one_by_one(bench.plan.history_prompts, appid=f"history{messages}")
                bench.keep("long", f"history {messages}", server.run_to_the_end(traffic))


def start(bench: Bench) -> None:
    """From the start to ready, on an empty database and on one that was used before."""
    with bench.postgres.database() as url:
        for number in range(bench.plan.starts + 1):
            row = "again" if number else "empty"
            with bench.row("start", row), Server(CHATTERD, url, free_port(), bench.folder) as server:
                bench.keep("start", row, {"ready_s": server.seconds_to_ready})


def plots(bench: Bench) -> None:
    """The same rate for more and more streams."""
    for _ in range(bench.plan.runs):
        for streams in bench.plan.scaling:
            for contender in bench.ours_and_rust():
                row = f"{contender.key} {streams}"
                with bench.row("plots", row), bench.site(contender) as server:
                    values = server.run(_steady(bench.plan, streams, bench.plan.scaling_rate))
                    bench.keep("plots", row, values)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "table": table,
    "latency": latency,
    "first": first,
    "memory": memory,
    "long": long,
    "start": start,
    "plots": plots,
}
"""By the names of the command line, which are those of the results' sections."""


def _steady(plan: Plan, streams: int, rate: float) -> Traffic:
    return steady(streams, rate, plan.seconds, plan.begin_rate)


def _few_lines(plan: Plan, streams: int) -> Traffic:
    return steady(streams, plan.replies_rate, plan.replies_seconds, plan.begin_rate)


def _burst(plan: Plan) -> Traffic:
    return Traffic(plan.burst, FIRST_RATE, FIRST_LINES, appid="burst")


def _one_by_one(prompts: int, appid: str = "one", one_conversation: bool = False, direct: bool = False) -> Traffic:
    return Traffic(
        prompts, FIRST_RATE, FIRST_LINES, at_once=1, appid=appid, one_conversation=one_conversation, direct=direct
    )


def _ticks(server: Site, traffic: Traffic) -> list[Reading]:
    """Let a load run, and read the clocks once a second while all its streams do."""
    with server.load(traffic) as load:
        readings = [
            server.read(event, load) for event in load.events() if event["event"] in ("steady", "tick", "ending")
        ]
    return readings


def _edges(readings: list[Reading]) -> tuple[tuple[Reading, Reading], tuple[Reading, Reading]]:
    """The first and the last fifth of a load's time."""
    if len(readings) < 3:
        raise Failed("it was over too soon to compare its begin and its end")
    fifth = max(1, len(readings) // 5)
    return (readings[0], readings[fifth]), (readings[-1 - fifth], readings[-1])


def _brief(values: Values) -> str:
    """The few of a run's values that say most, for whoever waits."""
    shown = {
        "cpu_us": "{:.1f} us of CPU a line",
        "latency_p99_us": "p99 {:,.0f} us",
        "first_p50_us": "first event p50 {:,.0f} us",
        "rss": "{:,.0f} bytes resident",
        "begin_us": "{:.1f} us of CPU a line at its begin",
        "end_us": "{:.1f} at its end",
        "ready_s": "ready after {:.2f} s",
    }
    return ", ".join(text.format(values[name]) for name, text in shown.items() if name in values)
