"""`modum caffe`: train, test and time Caffe's models, with Caffe's own commands."""

import signal
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from modum.cli import caffe_convert
from modum.cli.run import launch_and_exit

if TYPE_CHECKING:
    from modum.caffe.solver import Action

__all__ = ["app"]

app = typer.Typer(name="caffe", help="Train, test and time Caffe models as their files are.", no_args_is_help=True)
app.add_typer(caffe_convert.app)


class GflagsCommand(TyperCommand):
    """Accepts Caffe's option spellings: `-solver x` besides `--solver=x`, `sigint_effect` for `sigint-effect`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after converting them to typer's spelling."""
        return super().parse_args(ctx, [_spelling(argument) for argument in args])


def _spelling(argument: str) -> str:
    name, equals, value = argument.partition("=")
    bare = name.lstrip("-")
    if name == bare or len(bare) < 2 or not bare[0].isalpha():
        return argument
    return f"--{bare.replace('_', '-')}{equals}{value}"


class Effect(StrEnum):
    """The effect of a signal on the solver."""

    STOP = "stop"
    SNAPSHOT = "snapshot"
    NONE = "none"


class OnNonfinite(StrEnum):
    """What a worker does whose weights are not finite."""

    RESTORE = "restore"
    RAISE = "raise"


class PhaseName(StrEnum):
    """The phases of a net."""

    TRAIN = "TRAIN"
    TEST = "TEST"


Gpu = Annotated[
    str, typer.Option(metavar="0,1|all", help="GPUs to compute on: their numbers, or all. Default: the CPU.")
]
Weights = Annotated[
    str, typer.Option(metavar="FILE,...", help="Files of weights (.caffemodel, .h5) to start from, in this order.")
]
Stage = Annotated[str, typer.Option(metavar="NAME,...", help="Stages of the net's state, for include and exclude.")]
Level = Annotated[int, typer.Option(help="Level of the net's state, for include and exclude.")]
Model = Annotated[str, typer.Option(metavar="FILE", help="The net: a prototxt file.")]
Iterations = Annotated[int, typer.Option(min=1, help="How many batches to run.")]


@app.command(cls=GflagsCommand)
def train(
    context: typer.Context,
    solver: Annotated[str, typer.Option(metavar="FILE", help="The solver: a prototxt file.")] = "",
    snapshot: Annotated[
        str, typer.Option(metavar="FILE", help="Go on from this snapshot (.solverstate or .solverstate.h5).")
    ] = "",
    weights: Weights = "",
    gpu: Gpu = "",
    stage: Stage = "",
    level: Level = 0,
    sigint_effect: Annotated[
        Effect, typer.Option(case_sensitive=False, help="What Ctrl-C does; after one that stops, another ends at once.")
    ] = Effect.STOP,
    sighup_effect: Annotated[Effect, typer.Option(case_sensitive=False, help="What SIGHUP does.")] = Effect.SNAPSHOT,
    workers: Annotated[
        int, typer.Option("-n", "--workers", min=1, help="Train with so many workers on this machine.")
    ] = 1,
    group_size: Annotated[
        int, typer.Option(min=1, help="Workers in a group: synchronous inside, asynchronous between groups.")
    ] = 1,
    moving_rate: Annotated[
        float | None,
        typer.Option(help="How far weights move at an exchange, 0 to 1.", show_default="the solver's, or automatic"),
    ] = None,
    update_interval: Annotated[
        int | None,
        typer.Option(help="Iterations between exchanges.", show_default="the solver's, or automatic"),
    ] = None,
    learning_rate_scale: Annotated[
        str,
        typer.Option(
            metavar="auto|linear|sqrt|FACTOR",
            help="Scale the learning rate by the groups, their root, or a number (1: not); auto: by the solver's type.",
        ),
    ] = "auto",
    on_nonfinite: Annotated[
        OnNonfinite,
        typer.Option(help="Of several workers, one whose weights are NaN or infinite takes the shared ones, or ends."),
    ] = OnNonfinite.RESTORE,
    grace: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="With --workers: after SIGTERM they have this long to leave in order, before they are killed.",
        ),
    ] = "30s",
    name: Annotated[str, typer.Option(help="What the job is called in a box that others use too.")] = "caffe",
    box: Annotated[
        str, typer.Option(metavar="HOST:PORT,...", help="With --workers: use these memory servers and start none.")
    ] = "",
) -> None:
    """Train a model as its solver file says.

    **modum caffe train --solver=examples/mnist/lenet_solver.prototxt**

    trains alone; with `--workers 4 --group-size 2` four workers on this machine train it together through a memory
    box, as they do under **modum run -n 4 --group-size 2 -m modum caffe train --solver=...**. The members of a group
    divide each batch, and the iterations of all groups count together, so batch_size, max_iter, display,
    test_interval, snapshot and the learning rate policy mean the same as for one worker. `--gpu 0,1` is one worker per
    GPU, in one group.

    Paths in the files are relative to the current directory, as in Caffe.
    """
    if not solver:
        raise typer.BadParameter("need a solver definition to train: --solver=solver.prototxt", param_hint="--solver")
    if snapshot and weights:
        raise typer.BadParameter("give a snapshot to go on from, or weights to start from, but not both")
    if workers > 1 or box:
        _launch(context, workers, group_size, box)
    from modum.caffe.device import parse_gpus, use
    from modum.cluster import detect
    from modum.cluster.checkpoints import checkpoints_are_taken

    place = detect()
    is_alone = place.world_size == 1 and not checkpoints_are_taken()
    gpus = parse_gpus(gpu)
    if len(gpus) > 1 and place.world_size == 1:
        _launch(context, len(gpus), len(gpus), box)
    import torch

    from modum.caffe.log import caffe_log
    from modum.caffe.proto import SolverParameter
    from modum.caffe.prototxt import read_solver
    from modum.caffe.solver import Solver

    with caffe_log(bar=is_alone, quiet=place.rank > 0) as move:
        param = read_solver(Path(solver))
        if snapshot or weights:
            param.ClearField("weights")
        if not gpus and param.HasField("solver_mode") and param.solver_mode == SolverParameter.GPU:
            gpus = [param.device_id] if torch.cuda.is_available() else []
        if param.random_seed < 0:
            torch.seed()
        options: dict[str, Any] = {
            "stages": _list(stage),
            "level": level or None,
            "weights": _list(weights),
            "device": use(gpus[place.local_rank % len(gpus)] if gpus else None),
            "asked": _signals(sigint_effect, sighup_effect, launched=not is_alone),
        }
        if is_alone:
            with Solver(param, **options) as alone:
                alone.progress = move
                alone.solve(snapshot or None)
            return
        from modum.caffe.sharing import sharing_rule
        from modum.job import connect

        try:
            rule = sharing_rule(param, moving_rate, update_interval)
            options["learning_rate_scale"] = _scale(learning_rate_scale)
            options["on_nonfinite"] = on_nonfinite.value
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        with (
            connect() as job,
            Solver(param, job=job, rule=rule, name=name, resume=snapshot or None, **options) as one,
        ):
            one.solve()


@app.command(name="test", cls=GflagsCommand)
def score_(
    model: Model = "",
    weights: Weights = "",
    iterations: Iterations = 50,
    gpu: Gpu = "",
    stage: Stage = "",
    level: Level = 0,
) -> None:
    """Score a model: compute the mean of its outputs over several batches.

    modum caffe test --model=train_val.prototxt --weights=net.caffemodel --iterations=100
    """
    _need(model, "score")
    if not weights:
        raise typer.BadParameter("need weights to score: --weights=net.caffemodel", param_hint="--weights")
    from modum.caffe.device import parse_gpus, use
    from modum.caffe.log import caffe_log
    from modum.caffe.net import Net
    from modum.caffe.proto import TEST
    from modum.caffe.testing import score

    gpus = parse_gpus(gpu)
    with caffe_log():
        device = use(gpus[0] if gpus else None)
        with Net(
            model, TEST, _list(weights), stages=_list(stage), level=level or None, device=device, fuse=True
        ) as net:
            score(net, iterations)


@app.command(name="time", cls=GflagsCommand)
def measure(
    model: Model = "",
    iterations: Iterations = 50,
    gpu: Gpu = "",
    phase: Annotated[PhaseName, typer.Option(case_sensitive=False, help="The phase to time.")] = PhaseName.TRAIN,
    stage: Stage = "",
    level: Level = 0,
    weights: Weights = "",
) -> None:
    """Time the forward and the backward pass of every layer.

    modum caffe time --model=train_val.prototxt --iterations=10
    """
    _need(model, "time")
    from modum.caffe.device import parse_gpus, use
    from modum.caffe.log import caffe_log
    from modum.caffe.net import Net
    from modum.caffe.proto import Phase
    from modum.caffe.timing import time_net

    gpus = parse_gpus(gpu)
    with caffe_log():
        device = use(gpus[0] if gpus else None)
        with Net(
            model, Phase.Value(phase.value), _list(weights), stages=_list(stage), level=level or None, device=device
        ) as net:
            time_net(net, iterations)


@app.command(name="device_query", cls=GflagsCommand)
def device_query(gpu: Gpu = "all") -> None:
    """Show the GPUs that PyTorch finds on this machine.

    modum caffe device_query --gpu=0
    """
    from modum.caffe.device import describe, parse_gpus

    for number in parse_gpus(gpu):
        print("\n".join(describe(number)))


def _need(model: str, purpose: str) -> None:
    if not model:
        raise typer.BadParameter(f"need a model definition to {purpose}: --model=net.prototxt", param_hint="--model")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _arguments(context: typer.Context) -> list[str]:
    """Return this command's options that differ from their defaults, except those about workers."""
    return [
        f"{option.opts[0]}={value.value if isinstance(value, StrEnum) else value}"
        for option in context.command.params
        if option.name not in ("workers", "group_size", "box", "grace")
        and (value := context.params.get(option.name or "")) not in (None, option.default)
    ]


def _launch(context: typer.Context, workers: int, group_size: int, box: str) -> NoReturn:
    """Run this command in several workers, without the options about workers, and end this process."""
    from modum.cluster import detect
    from modum.observe.console import RunConsole
    from modum.units import parse_seconds

    class Console(RunConsole):
        """Does not prefix the first worker's lines: they are Caffe's log, which other programs read."""

        def output(self, label: str, number: int, stream: Literal["stdout", "stderr"], lines: list[str]) -> None:
            super().output("" if label.strip() == "[0]" else label, number, stream, lines)

    if detect().world_size > 1:
        raise typer.BadParameter(
            "this is a worker of `modum run` already: give -n and --group-size to `modum run` alone"
        )
    try:
        seconds = parse_seconds(context.params["grace"])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--grace") from None
    launch_and_exit(
        context,
        Console,
        grace=seconds,
        command=("-m", "modum", "caffe", "train", *_arguments(context)),
        workers=workers,
        group_size=group_size,
        box=tuple(_list(box)),
        name=context.params["name"] if box else "",
    )


def _scale(text: str) -> Literal["auto", "linear", "sqrt"] | float:
    """Return the option's value; raise `ValueError` if it is neither a known word nor a number."""
    if text == "auto":
        return "auto"
    if text == "linear":
        return "linear"
    if text == "sqrt":
        return "sqrt"
    return float(text)


def _signals(on_interrupt: Effect, on_hangup: Effect, *, launched: bool) -> "Callable[[], Action]":
    """Return a function that tells what the signals since the last call ask for, one each.

    SIGTERM asks to stop. After SIGINT meant to stop, a second interrupts at once. Workers that were launched leave that
    to their launcher: it ends everything once they no longer handle SIGINT.
    """
    from modum.caffe.solver import Action

    asked: list[Action] = []

    def note(effect: Effect) -> Callable[..., None]:
        def handle(number: int, frame: object) -> None:
            asked.append(Action(effect.value))
            if number == signal.SIGINT and effect is Effect.STOP:
                signal.signal(signal.SIGINT, signal.SIG_IGN if launched else signal.default_int_handler)

        return handle

    signal.signal(signal.SIGINT, note(on_interrupt))
    signal.signal(signal.SIGHUP, note(on_hangup))
    if not launched:  # the others are asked through their job
        signal.signal(signal.SIGTERM, note(Effect.STOP))
    return lambda: asked.pop(0) if asked else Action.NONE
