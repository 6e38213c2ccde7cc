"""The command `modum`: one file a subcommand."""
