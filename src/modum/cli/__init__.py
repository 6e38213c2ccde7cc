"""The command `modum`: one file per subcommand."""
