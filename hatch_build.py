"""Compile Caffe's schema when Modum is built; hatchling calls this for wheels and for editable installs.

    python hatch_build.py       compile it in this tree, which is then used without being installed

What protoc makes is a descriptor, which every protobuf runtime since 3.20 takes; the Python code that it could make
instead refuses runtimes that are older than its protoc.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCHEMA = Path("src/modum/caffe/caffe.proto")
DESCRIPTOR = SCHEMA.with_suffix(".binpb")


def compile_schema(root: Path) -> None:
    """Write the descriptor of the schema beside it."""
    source = root / SCHEMA
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source.parent}"]
    subprocess.run([*protoc, f"--descriptor_set_out={root / DESCRIPTOR}", source.name], check=True)


class SchemaHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the descriptor into the wheel, and into the tree for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the schema before files are collected."""
        compile_schema(Path(self.root))
        build_data["artifacts"].append(str(DESCRIPTOR))


if __name__ == "__main__":
    compile_schema(Path(__file__).parent)
