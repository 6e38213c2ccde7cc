"""The Kubernetes manifest fits its schema and itself; test_launchers.py runs the other examples for clusters."""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load((CLUSTER / "jobset.yaml").read_text())


def test_the_manifest_fits_the_schema_of_jobset(manifest: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(manifest, SCHEMA)


@pytest.mark.parametrize(
    ("key", "value"), [("completionMode", "indexed"), ("completions", "2"), ("backOffLimit", 0), ("parallelism", -1)]
)
def test_a_manifest_with_a_slip_does_not_fit(manifest: Any, key: str, value: Any) -> None:
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_the_pods_of_the_manifest_know_the_right_number_and_name(manifest: Any) -> None:
    (jobs,) = manifest["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    words = shlex.split(container["args"][0])
    options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
    assert words[:2] == ["exec", "torchrun"]
    assert job["parallelism"] == job["completions"] == int(options["--nnodes"])
    # <JobSet>-<replicated job>-<job index>-<pod index>.<subdomain, which is the JobSet's name>
    name = manifest["metadata"]["name"]
    assert options["--master-addr"] == f"{name}-{jobs['name']}-0-0.{name}"
    assert manifest["spec"]["network"]["enableDNSHostnames"]


@pytest.mark.parametrize("example", sorted(path.name for path in CLUSTER.iterdir() if path.name != "hostfile"))
def test_every_example_begins_with_three_lines_of_explanation(example: str) -> None:
    lines = [line for line in (CLUSTER / example).read_text().splitlines() if not line.startswith("#!")]
    assert all(line.startswith("# ") for line in lines[:3])
    assert not lines[3].startswith("# ")
