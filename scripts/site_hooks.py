"""Hooks of mkdocs: the reference of the command line, and links to files of the repository.

The page of the command line is made from the commands themselves, so that it cannot go stale. Pages link to files
outside docs/ (examples, code) by relative paths, which work where the repository is browsed; the site shows such a path
as text, and warns, which is an error under `--strict`, if there is no such file.
"""

import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

_LOG = logging.getLogger("mkdocs.hooks.site")
_LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)\s#]+)(#[^)\s]*)?\)")
_COMMANDS = "<!-- the commands -->"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Fill in the commands, and turn links out of docs/ into text."""
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, commands())
    folder = Path(page.file.abs_src_path).parent

    def mend(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / link[2]))
        if target.is_relative_to(config.docs_dir):
            return link[0]
        if not target.exists():
            _LOG.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
        path = f"`{target.relative_to(ROOT)}`"
        return path if link[1].strip("`") in path else f"{link[1]} ({path})"

    return _LINK.sub(mend, markdown)


def commands() -> str:
    """Return the sections of all commands in Markdown."""
    from typer.core import TyperGroup
    from typer.main import get_command

    from modum.cli.main import app

    def sections(command: Any, path: str) -> Iterator[str]:
        if isinstance(command, TyperGroup):
            if path != "modum":
                yield f"## {path}\n\n{command.help}"
            for name, child in command.commands.items():
                yield from sections(child, f"{path} {name}")
        else:
            yield _section(command, path)

    return "\n\n".join(sections(get_command(app), "modum"))


def _section(command: Any, path: str) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = command.get_usage(context).removeprefix("Usage: ")
    rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    lines = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in rows]
    table = "\n".join(["| option or argument | what |", "|---|---|", *lines])
    return f"## {path}\n\n```\n{usage}\n```\n\n{inspect.cleandoc(command.help)}\n\n{table}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
