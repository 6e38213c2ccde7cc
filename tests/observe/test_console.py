"""A run is shown in a way that fits where it is shown."""

import io
import re

import pytest

from modum.observe.console import RunConsole, SampleRate, describe
from modum.observe.progress import JobProgress

PROGRESS = JobProgress(
    samples=25_200,
    steps=400,
    total=60_000,
    loss=0.41234,
    exchanges=50,
    exchange_seconds=0.305,
    hidden_seconds=0.2989,
    ranks=4,
    world_size=4,
)
LINE = "25,200/60,000 samples, 3,210/s, loss 0.4123, exchange 6.1 ms (98% hidden), 4/4 workers"


class Terminal(io.StringIO):
    """Takes what is written as a terminal would."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", self.getvalue())


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_the_line_has_all_that_is_known() -> None:
    assert ", ".join(describe(PROGRESS, 3210.4, 4, 0, 4)) == LINE


def test_the_line_leaves_out_what_is_not_known() -> None:
    progress = JobProgress(
        samples=5,
        steps=1,
        total=None,
        loss=None,
        exchanges=0,
        exchange_seconds=0.0,
        hidden_seconds=0.0,
        ranks=1,
        world_size=2,
    )
    assert describe(None, None, 2, 0, 2) == ["2/2 workers"]
    assert describe(progress, None, 1, 1, 2) == ["5 samples", "1/2 workers"]


def test_the_line_tells_in_the_end_how_many_got_done() -> None:
    assert describe(None, None, 0, 3, 4) == ["3/4 workers done"]


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = SampleRate()
    rate.update(0.0, 0)
    assert rate.latest is None
    rate.update(2.0, 200)
    assert rate.latest == 100
    for second in range(3, 31):
        rate.update(float(second), 200 + 50 * (second - 2))
    assert rate.latest == 50


def test_a_rate_is_there_however_seldom_it_is_asked_for() -> None:
    rate = SampleRate()
    rate.update(0.0, 0)
    rate.update(60.0, 600)
    rate.update(120.0, 1800)
    assert rate.latest == 20


class TestElsewhereThanOnATerminal:
    @pytest.fixture
    def streams(self) -> tuple[io.StringIO, io.StringIO]:
        return io.StringIO(), io.StringIO()

    @pytest.fixture
    def console(self, streams: tuple[io.StringIO, io.StringIO], clock: Clock) -> RunConsole:
        return RunConsole(4, stdout=streams[0], stderr=streams[1], clock=clock)

    def test_output_keeps_its_stream_and_gets_its_label(
        self, console: RunConsole, streams: tuple[io.StringIO, io.StringIO]
    ) -> None:
        with console:
            console.output("[0]", 0, "stdout", ["one", "[bold]two[/bold]", ""])
            console.output("[1]", 1, "stderr", ["three"])
            console.message("four")
        assert streams[0].getvalue() == "[0] one\n[0] [bold]two[/bold]\n[0] \n"
        assert streams[1].getvalue() == "[1] three\nmodum: four\n"

    def test_a_plain_line_of_progress_comes_every_ten_seconds(
        self, console: RunConsole, streams: tuple[io.StringIO, io.StringIO], clock: Clock
    ) -> None:
        shown = []
        for second in range(25):
            clock.now = float(second)
            console.show(PROGRESS, 4, 0)
            shown.append(streams[1].getvalue().count("\n"))
        assert [second for second in range(1, 25) if shown[second] > shown[second - 1]] == [10, 20]

    def test_the_last_line_comes_in_any_case(
        self, console: RunConsole, streams: tuple[io.StringIO, io.StringIO]
    ) -> None:
        console.show(PROGRESS, 3, 0, last=True)
        assert streams[1].getvalue() == f"modum: {LINE}\n".replace(" 3,210/s,", "").replace("4/4", "3/4")

    def test_what_the_encoding_lacks_is_escaped(self) -> None:
        binary = io.BytesIO()
        with RunConsole(1, stdout=io.TextIOWrapper(binary, "ascii"), stderr=io.StringIO()) as console:
            console.output("[0]", 0, "stdout", ["Grüße"])
            assert binary.getvalue() == rb"[0] Gr\xfc\xdfe" + b"\n"


class TestOnATerminal:
    def test_output_is_shown_above_one_line_of_progress(self, terminal: Terminal, clock: Clock) -> None:
        with RunConsole(4, stdout=terminal, stderr=terminal, clock=clock) as console:
            clock.now = 1.0
            console.show(PROGRESS, 4, 0)
            console.output("[0]", 0, "stdout", ["epoch 1", "epoch 2"])
        lines = [line for line in terminal.text.replace("\r", "\n").split("\n") if line]
        assert lines.index("[0] epoch 1") + 1 == lines.index("[0] epoch 2") < len(lines) - 1
        assert re.fullmatch(
            r"━+╸?━* 25,200/60,000 samples  loss 0.4123  exchange 6.1 ms \(98% hidden\)  4/4 workers *",
            lines[-1],
        )

    def test_what_is_said_after_the_last_line_stands_below_it(self, terminal: Terminal) -> None:
        with RunConsole(4, stdout=terminal, stderr=terminal) as console:
            console.show(PROGRESS, 0, 4, last=True)
            console.message("the end", error=True)
        assert terminal.text.rstrip().endswith("4/4 workers done\nmodum: the end")

    def test_a_rank_keeps_its_colour(self, terminal: Terminal) -> None:
        with RunConsole(4, stdout=terminal, stderr=terminal) as console:
            for rank in (0, 1, 0):
                console.output(f"[{rank}]", rank, "stdout", ["x"])
        colours = re.findall(r"(\x1b\[[0-9;]*m)\[(\d)\]", terminal.getvalue())
        assert len(colours) == 3
        assert colours[0] == colours[2]
        assert colours[0][0] != colours[1][0]

    def test_the_workers_colours_pass_and_their_cursor_movements_do_not(self, terminal: Terminal) -> None:
        with RunConsole(1, stdout=terminal, stderr=terminal) as console:
            console.output("[0]", 0, "stdout", ["\x1b[31mred\x1b[0m\x1b[2J plain"])
        assert "\x1b[31mred\x1b[0m plain" in terminal.getvalue()

    def test_the_line_is_redrawn_four_times_a_second(self, terminal: Terminal, clock: Clock) -> None:
        with RunConsole(4, stdout=terminal, stderr=terminal, clock=clock) as console:
            for tick in range(1, 101):
                clock.now = tick / 100
                console.show(PROGRESS, 4, 0)
            assert terminal.text.count("25,200/60,000") == 4

    def test_redirected_standard_output_gets_the_workers_output_alone(self, terminal: Terminal) -> None:
        file = io.StringIO()
        with RunConsole(1, stdout=file, stderr=terminal) as console:
            console.output("[0]", 0, "stdout", ["result"])
            console.output("[0]", 0, "stderr", ["warning"])
            console.show(PROGRESS, 1, 0, last=True)
        assert file.getvalue() == "[0] result\n"
        assert "[0] warning" in terminal.text
        assert "result" not in terminal.text

    def test_a_narrow_terminal_gets_no_bar(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        with RunConsole(4, stdout=terminal, stderr=terminal) as console:
            console.show(PROGRESS, 4, 0, last=True)
        assert "━" not in terminal.text
        assert "4/4 workers" in terminal.text

    def test_a_dumb_terminal_gets_plain_lines(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        with RunConsole(4, stdout=terminal, stderr=terminal) as console:
            console.show(PROGRESS, 4, 0, last=True)
        assert terminal.getvalue().startswith("modum: 25,200/60,000 samples, ")
