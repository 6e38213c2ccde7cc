"""`import modum` costs nothing, and shows what there is."""

import subprocess
import sys

import modum


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_modum_loads_neither_numpy_nor_a_framework() -> None:
    heavy = "{'numpy', 'numba', 'torch', 'tensorflow', 'keras', 'msgspec', 'psutil'}"
    assert run(f"import sys, modum; print({heavy} & set(sys.modules))") == "set()"


def test_dir_shows_the_public_names_and_the_subpackages() -> None:
    shown = run("import modum; print(*dir(modum))").split()
    assert {*modum.__all__, "box", "caffe", "keras", "rules", "tensorflow", "testing", "torch"} <= set(shown)


def test_a_subpackage_is_loaded_when_it_is_first_used() -> None:
    loaded = "print('modum.torch' in sys.modules)"
    assert run(f"import sys, modum; {loaded}; modum.torch.Averager; {loaded}").split() == ["False", "True"]


def test_every_public_name_of_modum_is_there() -> None:
    assert run("import modum; print(*[name for name in modum.__all__ if not hasattr(modum, name)])") == ""


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert run("import modum; print(hasattr(modum, 'jaxx'))") == "False"
