"""`python -m modum` is the command `modum`."""

from modum.cli.main import main

if __name__ == "__main__":
    main()
