"""``popgrad bench``: what it prints, and what it refuses. No test looks at a time."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from popgrad import _core, optim
from popgrad.bench import bench_population, bench_step
from popgrad.bench.population import LOW_RANK, POPULATIONS
from popgrad.checks import InputError

COMMAND = [sys.executable, "-c", "from popgrad.cli import main; main()", "bench", "step"]
PACKED = [f"{name} {stored}" for name in ("adam", "adamw", "lion", "momentum") for stored in ("bfloat16", "8bit")]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300)


def test_table():
    done = run("--n", "10_000", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    head, *rows, last = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert head.split("  ")[0] == "optimizer"
    for column in ("bytes/parameter", "ms", "GB/s", "share of the plain loop"):
        assert column in head
    names = []
    for row in rows:
        words = row.split()
        names.append(" ".join(words[:-4]))
        assert all(float(cell) > 0 for cell in words[-4:]), row
    assert set(names) == {*optim.REGISTRY, *PACKED}
    assert last.startswith("10,000 parameters, ")


def test_rows():
    plain, half, byte = bench_step(10_000, ["adam"], repeats=2)
    assert [plain.name, half.name, byte.name] == ["adam", "adam bfloat16", "adam 8bit"]
    assert [plain.bytes_per_parameter, half.bytes_per_parameter] == [28, 20]
    assert [plain.plain_bytes, half.plain_bytes, byte.plain_bytes] == [28, 20, 20]
    assert plain.share == pytest.approx(plain.plain_seconds / plain.seconds)
    assert half.bandwidth == pytest.approx(20 * 10_000 / half.seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "[--n] expected a whole number"),
        (["--n", "many"], "[--n] expected a whole number"),
        (["--n", "1e15"], "GiB of memory, there are"),
        (["--n", "100", "--optimizers", "adm"], "Did you mean 'adam'?"),
    ],
)
def test_bad_input_comes_before_work(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 1.5}, {"n": 10, "repeats": 0}, {"n": 10, "names": ["no"]}])
def test_the_function_refuses_it_too(wrong):
    with pytest.raises(InputError):
        bench_step(**wrong)


def test_populations():
    *rows, low = bench_population(3, repeats=1)
    assert (low.sizes, low.members, set(low.seconds)) == (
        LOW_RANK[0],
        4,
        {"popgrad", "stored", "product"},
    )
    assert [(row.sizes, row.activation, row.members, row.samples) for row in rows] == [
        (sizes, activation, 3, samples) for sizes, activation, _, samples in POPULATIONS
    ]
    for row in rows:
        assert row.ratio("popgrad") == 1
        assert ("bfloat16" in row.seconds) == (_core.bfloat16() is not None)
        assert row.share == pytest.approx(row.rate / (2 * 2048**3 / row.seconds["product"]))
        assert row.memory is None or 0 <= row.memory < 64 << 20
        assert row.ratio("NumPy") == pytest.approx(row.seconds["NumPy"] / row.seconds["popgrad"])
        operations = row.rate * row.seconds["popgrad"] / (2 * row.members * row.samples)
        assert operations == pytest.approx(sum(a * b for a, b in pairwise(row.sizes)))
    with pytest.raises(InputError, match="networks must be"):
        bench_population(0)


def test_population_table():
    done = subprocess.run(
        [*COMMAND[:-1], "population", "--networks", "2", "--repeats", "1"],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    head, *rows = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert head.startswith("networks")
    rows, legend = rows[: len(POPULATIONS) + 1], " ".join(rows[len(POPULATIONS) + 1 :])
    assert "rank" in rows[-1]
    assert "time relative to popgrad" in legend
    assert "* Equivalent rate" in legend
