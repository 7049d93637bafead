"""Every example runs, and so does every command and example of the README."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# The last number that an example prints, where that says whether it has learned.
LEARNED = {
    "own_model": lambda error: error < 0.0005,
    "torch_cnn": lambda accuracy: accuracy > 0.95,
    "torch_lstm": lambda error: error < 0.02,
    "torch_transformer": lambda accuracy: accuracy > 0.95,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    if path.stem.startswith("torch_") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir()), "an example leaves files behind"
    if path.stem in LEARNED:
        assert LEARNED[path.stem](float(done.stdout.split()[-1])), done.stdout


def blocks(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_readme_python(number, tmp_path):
    code = blocks("python")[number]
    if "torch" in code and not find_spec("torch"):
        pytest.skip("PyTorch is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example shows nothing"


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
    assert len(blocks("python")) >= 2


def commands():
    """The README's command lines that need nothing but popgrad."""
    lines = "\n".join(blocks("bash")).splitlines()
    return [line for line in lines if line.startswith("popgrad ")]


@pytest.mark.parametrize("command", commands())
def test_readme_command(command, tmp_path):
    arguments = command.split()[1:]
    done = subprocess.run(
        [sys.executable, "-c", "from popgrad.cli import main; main()", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
