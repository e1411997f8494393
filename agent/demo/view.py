"""The scene as a live view on a terminal. It only looks.

From top to bottom: the way of the events with its figures, the queue's length over time, what
arrived last, and what is being told; at the end the balance takes the place of the arrivals. All
of it fits 80 x 24; colour only repeats what the words say, so NO_COLOR loses nothing.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.demo.balance import Balance
from agent.demo.scene import Arrival, Scene, Sight

WIDTH, HEIGHT = 72, 24  # the least
TALL = 34  # rows from which on there is room for the whole story
BLOCKS = " ▁▂▃▄▅▆▇█"
FLOOR = 25  # events: a queue shorter than a batch is no hill
FRAME = 4  # columns of a panel's border and padding

NEXT = """\
next: README.md, "Configure it": write a configuration, then  ga4-agent check
play: ga4-agent emulator, with device_configs/demo.toml, which says how"""


def fits(console: Console) -> bool:
    """Whether the view can be shown there."""
    return (
        console.is_terminal
        and not console.is_dumb_terminal
        and console.encoding.startswith("utf")
        and console.width >= WIDTH
        and console.height >= HEIGHT
    )


class View:
    """Draws each scene over the last one; the last stays."""

    def __init__(self, *, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, scene: Scene) -> None:
        """Draw it."""
        size = self._console.size
        drawn = draw(scene, width=size.width, height=size.height)
        self._live.update(drawn, refresh=True)


def draw(scene: Scene, *, width: int, height: int) -> RenderableType:
    """The whole view, for a terminal of so many columns and rows."""
    tall = height >= TALL
    parts = [_pipeline(scene.sight), _queue(scene, width=width - FRAME, rows=4 if tall else 2)]
    if scene.balance is None:
        parts.append(_arrivals(scene.sight.arrivals, rows=10 if tall else 5))
    else:
        parts.append(_balance(scene.balance))
    parts.append(_sentences(scene, rows=12 if tall else 5))
    if scene.balance is not None:
        parts.append(Text(NEXT, style="cyan", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


# -- the way of the events --------------------------------------------------------------------


def _pipeline(sight: Sight) -> RenderableType:
    table = Table.grid(expand=True)
    for ratio in (5, 1, 6, 1, 4):
        table.add_column(ratio=ratio, vertical="middle", justify="center")
    agent, colour = _agent(sight)
    ga4 = ("there", "green") if sight.ga4_there else ("GONE", "red")
    table.add_row(
        _box("programs", "HTTP and MQTT", "acknowledged", sight.acknowledged, "cyan"),
        _arrow(sight, open_=sight.agent == "running"),
        _box("agent", agent, "queue on disk", sight.queued, colour),
        _arrow(sight, open_=sight.agent == "running" and sight.ga4_there),
        _box("GA4", ga4[0], "arrived", sight.arrived, ga4[1]),
    )
    return table


def _agent(sight: Sight) -> tuple[str, str]:
    """What it does, and the colour for that."""
    if sight.agent == "killed":
        return "KILLED with -9", "red"
    if sight.agent != "running":
        return sight.agent, "yellow"
    return f"running: {sight.state}" if sight.state else "running", "green"


def _box(title: str, state: str, what: str, count: int, colour: str) -> Panel:
    figures = Table.grid(expand=True)
    figures.add_column(no_wrap=True)
    figures.add_column(justify="right", style="bold", no_wrap=True)
    figures.add_row(what, str(count))
    words = Text(state, style=colour, no_wrap=True, overflow="ellipsis")
    return Panel(Group(words, figures), title=f"[bold]{title}", border_style=colour)


def _arrow(sight: Sight, *, open_: bool) -> Text:
    if sight.agent in ("ending", "ended"):
        return Text("───", style="dim")
    return Text("──▶", style="green") if open_ else Text("─✗─", style="red")


# -- the queue over time ----------------------------------------------------------------------


def _queue(scene: Scene, *, width: int, rows: int) -> Panel:
    most = max(scene.queue, default=0)
    bars = "\n".join(chart(scene.queue, width=width, rows=rows))
    title = f"the queue on disk, {scene.seconds:.1f} s; at most {most} events"
    return Panel(
        Text(bars, style="yellow", no_wrap=True), title=title, title_align="left", style="dim"
    )


def chart(lengths: Sequence[int], *, width: int, rows: int) -> list[str]:
    """All lengths as bars of block characters, the latest on the right; pure.

    What has more lengths than columns is drawn closer together: a column shows its highest.
    """
    per = -(-len(lengths) // width) or 1
    columns = [max(lengths[at : at + per]) for at in range(0, len(lengths), per)]
    most = max(FLOOR, *columns) if columns else FLOOR
    # Rounded up: whatever is not empty shows.
    eighths = [-(-length * rows * 8 // most) for length in columns]
    return [
        "".join(BLOCKS[min(8, max(0, height - 8 * row))] for height in eighths)
        for row in reversed(range(rows))
    ]


# -- what arrived, what is told, what it comes to ----------------------------------------------


def _arrivals(arrivals: Sequence[Arrival], *, rows: int) -> Panel:
    # Expanded, so that long params are cut and not the names.
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    shown = arrivals[-rows:]
    for arrival in shown:
        params = "  ".join(f"{name}={value}" for name, value in arrival.params.items())
        table.add_row(Text(arrival.name), Text(params))
    for _ in range(rows - len(shown)):
        table.add_row("", "")
    return Panel(table, title="arrived last at GA4", title_align="left", border_style="blue")


def _sentences(scene: Scene, *, rows: int) -> Text:
    """The newest last, and bold: it is what is going on. As many rows throughout the story."""
    shown = scene.sentences[-rows:]
    text = Text(no_wrap=True, overflow="ellipsis")
    for sentence in shown[:-1]:
        text.append(f"{sentence.line()}\n", style="dim")
    for sentence in shown[-1:]:
        text.append(sentence.line(), style="bold")
    return text if scene.balance else text.append("\n" * (rows - max(1, len(shown))))


def _balance(balance: Balance) -> Panel:
    table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
    figures = {
        "acknowledged": balance.acknowledged,
        "arrived": balance.arrived,
        "missing": balance.missing,
        "arrived twice": balance.twice,
    }
    for name in figures:
        table.add_column(name, justify="center")
    table.add_row(*(str(figure) for figure in figures.values()))
    colour = "green" if balance.right else "red"
    lines = [f"ledger: {balance.equation}", *filter(None, [balance.repeats])]
    words = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
    title = f"[bold]{balance.verdict}"
    return Panel(Group(table, words), title=title, title_align="left", border_style=colour)
