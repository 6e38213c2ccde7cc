"""The command `modum`, also as `python -m modum`."""

import signal


def main() -> None:
    """Run the command line.

    Until it knows which command it runs, SIGINT ends this process at once, by the kernel: nothing has been started yet,
    and a `KeyboardInterrupt` that is raised while modules are imported can get lost in a callback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from modum.cli import main as cli

    cli.main()


if __name__ == "__main__":
    main()
