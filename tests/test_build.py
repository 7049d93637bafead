"""What the build says about CUDA, and how the module behaves where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from popgrad import _core

ROOT = Path(__file__).parent.parent


def configure(folder, mode, nvcc=None):
    """Configure the native library where no CUDA compiler works."""
    # Those of the extra `test` first: the system's may be older than what the build asks for.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    cmake = shutil.which("cmake", path=path)
    assert cmake, 'no cmake: pip install ".[test]" brings it'
    command = [cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(folder)]
    command += ["-DPOPGRAD_PYTHON=OFF", f"-DPOPGRAD_CUDA={mode}"]
    broken = os.environ | {"PATH": path, "CUDACXX": str(nvcc or folder / "no-such-nvcc")}
    return subprocess.run(command, capture_output=True, text=True, env=broken, timeout=120)


def test_cuda_on_without_a_compiler_fails_and_says_what_to_do(tmp_path):
    done = configure(tmp_path, "ON")
    message = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert "POPGRAD_CUDA=ON, but no working nvcc was found" in message
    assert "CUDACXX" in message


@pytest.mark.parametrize("mode", ["AUTO", "OFF"])
def test_without_a_compiler_the_stand_in_is_built_and_said(tmp_path, mode):
    done = configure(tmp_path, mode)
    assert done.returncode == 0, done.stderr
    assert "CUDA is not built" in done.stdout


def test_a_compiler_that_is_too_old_is_passed_over_and_its_reason_said(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho \"nvcc fatal   : Unsupported gpu architecture 'compute_90'\" >&2\nexit 1\n")
    nvcc.chmod(0o755)
    done = configure(tmp_path / "build", "AUTO", nvcc)
    assert done.returncode == 0, done.stderr
    said = re.search(r"CUDA is not built .*switched off\) (.*)", done.stdout)
    assert said
    assert said[1].startswith(("nvcc fatal", "Error:", "error:", "is not able to compile"))


def test_an_unknown_mode_is_refused(tmp_path):
    done = configure(tmp_path, "MAYBE")
    assert done.returncode != 0
    assert "must be AUTO, ON or OFF, got 'MAYBE'" in " ".join(done.stderr.split())


def test_import_makes_no_cuda_call():
    # The driver would be loaded by the first call.
    code = "import popgrad; print([l for l in open('/proc/self/maps') if 'libcuda' in l])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_module_needs_no_cuda_library():
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    needed = subprocess.run(["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in needed
    assert "libcudart" not in needed


def test_stubs_name_everything_in_the_module():
    text = (Path(sys.modules["popgrad"].__file__).parent / "_core.pyi").read_text()
    for name in dir(_core):
        if not name.startswith("_"):
            assert f"def {name}(" in text or re.search(rf"class {name}[:(]", text), name


def test_info():
    done = subprocess.run(
        [sys.executable, "-c", "from popgrad.cli import main; main()", "info"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    for word in ("popgrad", "instruction sets", _core.isa(), "threads", "BLAS", "CUDA", "built", "report"):
        assert word in done.stdout, word
