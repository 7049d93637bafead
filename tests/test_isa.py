"""One source per instruction set: nothing leaks, the forced one runs, loops are vectorized, bits agree.

The machine code is read from the extension that is installed, with binutils.
"""

import functools
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import popgrad._core as core

ISAS = core.isas()
SUPPORTED = [name for name, supported in ISAS.items() if supported]
X86 = ("avx2", "avx512", "avx512bf16", "amx")  # what goes beyond the baseline of x86-64, each on top of the one before
WIDTH = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}

reads_machine_code = [
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"),
        reason=f"knows x86-64 only, this is {platform.machine()}",
    ),
    pytest.mark.skipif(
        not (shutil.which("objdump") and shutil.which("nm")),
        reason="binutils (nm, objdump) are not installed",
    ),
]


def run_tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def functions():
    """{mangled name: its instructions, each (address, mnemonic, operands)} of the extension."""
    found = {}
    current = None
    for line in run_tool("objdump", "-d", "--no-show-raw-insn", core.__file__).splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            current = found.setdefault(head[1], [])
        elif current is not None and (one := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line)):
            current.append((int(one[1], 16), one[2], one[3]))
    assert len(found) > 100, "objdump printed no functions: was the extension stripped?"
    return found


def owner(mangled):
    """The instruction set in whose namespace a function lives, or None."""
    if match := re.match(r"_ZN[VK]*7popgrad(\d+)(\w+)", mangled):
        return match[2][: int(match[1])]
    return None


def needs(mnemonic, operands):
    """The first of X86 that knows this instruction, or None where every x86-64 does."""
    if "%tmm" in operands or mnemonic in ("ldtilecfg", "tilerelease"):
        return "amx"
    if mnemonic in ("vdpbf16ps", "vcvtne2ps2bf16", "vcvtneps2bf16"):
        return "avx512bf16"
    if re.search(r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b", operands):
        return "avx512"
    # VEX-encoded instructions on short registers are as illegal on an older processor as those on long ones.
    if "%ymm" in operands or mnemonic == "vzeroupper" or (mnemonic.startswith("v") and "%xmm" in operands):
        return "avx2"
    return None


class TestNothingLeaks:
    pytestmark = reads_machine_code

    @pytest.mark.parametrize("isa", X86)
    def test_instructions_stay_in_their_namespace(self, isa):
        at_home = set(X86[X86.index(isa) :])
        inside, leaks = 0, {}
        for name, body in functions().items():
            for address, mnemonic, operands in body:
                if needs(mnemonic, operands) != isa:
                    continue
                if owner(name) in at_home:
                    inside += 1
                else:
                    leaks.setdefault(name, f"{address:x}: {mnemonic} {operands}")
        assert not leaks
        if isa in ISAS:
            assert inside > (100 if isa in WIDTH else 10)  # so that the search above can find something

    @pytest.mark.skipif("amx" not in ISAS, reason="this build has no AMX")
    def test_tiles_are_multiplied_in_the_order_of_the_manual(self):
        """TDPBF16PS sum, weights, samples; few machines can run it, so its operands are looked at."""
        used = {operands for body in functions().values() for _, name, operands in body if name == "tdpbf16ps"}
        assert used == {"%tmm6,%tmm4,%tmm0", "%tmm7,%tmm4,%tmm1", "%tmm6,%tmm5,%tmm2", "%tmm7,%tmm5,%tmm3"}

    def test_no_symbol_that_the_linker_may_share(self):
        """A weak or unique symbol keeps one of several bodies: it must be plain code."""
        shared = set(re.findall(r"^[0-9a-f]+ [WVu] (\S+)$", run_tool("nm", core.__file__), re.MULTILINE))
        assert shared  # the bindings have many
        assert [name for name in shared if owner(name) in ISAS] == []
        bodies = functions()
        guilty = {
            name
            for name in shared & bodies.keys()
            if any(needs(mnemonic, operands) for _, mnemonic, operands in bodies[name])
        }
        assert not guilty

    def test_every_set_has_code_of_its_own(self):
        owners = {owner(name) for name in functions()}
        assert owners >= ISAS.keys()


def loops(body):
    """The innermost loops of a function: spans that end in a jump back and hold no other such span."""
    spans = []
    for address, mnemonic, operands in body:
        if mnemonic.startswith("j") and (target := re.match(r"([0-9a-f]+) <", operands)):
            start = int(target[1], 16)
            if body[0][0] <= start <= address:
                spans.append((start, address))
    innermost = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[one for one in body if start <= one[0] <= end] for start, end in innermost]


def is_vectorized(body, isa, letter):
    """Whether a loop does packed arithmetic in whole registers, and stores it so.

    The letter is s for float, d for double, i for integers, and c for a loop that only copies.
    """
    kinds = {"i": r"v?p(add|mul|s[lr]l)\w+", "c": r"v?mov[au]p[sd]"}
    arithmetic = kinds.get(letter, rf"v?(add|sub|mul|div|sqrt)p{letter}")
    register = f"%{WIDTH[isa]}"
    for loop in loops(body):
        packed = any(re.fullmatch(arithmetic, mnemonic) and register in operands for _, mnemonic, operands in loop)
        stored = any(
            re.match(r"v?mov[auhl]p|v?movdq[au]", mnemonic) and re.match(rf"{register}\d+,.*\(", operands)
            for _, mnemonic, operands in loop
        )
        if packed and stored:
            return True
    return False


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa in WIDTH])
class TestLoopsAreVectorized:
    pytestmark = reads_machine_code

    def find(self, isa, kind, rule, more):
        name = f"_ZN7popgrad{len(isa)}{isa}12_GLOBAL__N_1{len(kind)}{kind}INS0_{len(rule)}{rule}{more}"
        found = [body for mangled, body in functions().items() if mangled.startswith(name)]
        assert found, f"no {kind}<{rule}> in namespace popgrad::{isa}"
        return found

    @pytest.mark.parametrize("extent", ["rule_alone", "decay_alone", "everything"])
    @pytest.mark.parametrize("dtype", ["float", "double"])
    @pytest.mark.parametrize("rule", core.step_rules())
    def test_step(self, isa, rule, dtype, extent):
        """The sweep, and in rules by layers the one before it that sums."""
        letter = dtype[0]
        measured = core.step_rules()[rule].sums and extent != "decay_alone"
        number = ("rule_alone", "decay_alone", "everything").index(extent)
        for kind in ("sweep", "measure_part") if measured else ("sweep",):
            bodies = self.find(isa, kind, rule, f"I{letter}EE{letter}LNS0_6ExtentE{number}E")
            doubles = dtype == "double" or kind == "measure_part"  # sums are in double
            copies = rule == "Progress" and kind == "sweep" and extent == "rule_alone"
            assert any(is_vectorized(body, isa, "c" if copies else "d" if doubles else "s") for body in bodies), kind

    @pytest.mark.parametrize(("stored", "letter"), [("Half", "i"), ("SignedByte", "s"), ("PositiveByte", "s")])
    def test_packing(self, isa, stored, letter):
        for kind in ("unpack_block", "pack_block"):
            assert any(is_vectorized(body, isa, letter) for body in self.find(isa, kind, stored, "EE")), kind

    @pytest.mark.parametrize("dtype", ["float", "double"])
    @pytest.mark.parametrize("rule", core.move_rules())
    def test_move(self, isa, rule, dtype):
        bodies = self.find(isa, "move", rule, f"E{dtype[0]}E")
        assert any(is_vectorized(body, isa, "s" if dtype == "float" else "d") for body in bodies)

    @pytest.mark.parametrize("dtype", ["float", "double"])
    def test_noise(self, isa, dtype):
        name = f"_ZN7popgrad{len(isa)}{isa}12_GLOBAL__N_110draw_pieceI{dtype[0]}E"
        bodies = [body for mangled, body in functions().items() if mangled.startswith(name)]
        assert bodies
        assert any(is_vectorized(body, isa, "s") for body in bodies)


def python(code, **environment):
    """Run code in a fresh interpreter, in which only these POPGRAD_ variables are set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POPGRAD_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120
    )


def output_of(code, **environment):
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestForcing:
    @pytest.mark.parametrize("isa", ISAS)
    def test_the_forced_one_runs_or_is_an_import_error(self, isa):
        done = python("import popgrad._core as c; print(c.bfloat16() or c.isa())", POPGRAD_ISA=isa)
        if isa in SUPPORTED:
            assert done.stdout.strip() == isa
        else:
            assert done.returncode != 0
            assert "ImportError" in done.stderr
            assert "this processor or system cannot run it" in done.stderr

    @pytest.mark.parametrize("environment", [{}, {"POPGRAD_ISA": ""}], ids=["unset", "empty"])
    def test_the_best_one_is_the_default(self, environment):
        code = "import popgrad._core as c; print(c.bfloat16() or c.isa())"
        assert output_of(code, **environment) == SUPPORTED[-1]

    @pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx", "avx512 "])
    def test_an_unknown_one_is_an_import_error(self, isa):
        done = python("import popgrad._core", POPGRAD_ISA=isa)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: ")
        assert f"POPGRAD_ISA={isa}" in last
        for built in ISAS:
            assert built in last


class TestThreads:
    @pytest.mark.parametrize("count", [1, 2, 1024])
    def test_count_from_the_environment(self, count):
        assert output_of("import popgrad._core as c; print(c.threads())", POPGRAD_NUM_THREADS=str(count)) == str(count)

    @pytest.mark.parametrize("environment", [{}, {"POPGRAD_NUM_THREADS": ""}], ids=["unset", "empty"])
    def test_the_default_is_the_cores_of_this_process(self, environment):
        expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        quota = Path("/sys/fs/cgroup/cpu.max")  # of a container
        share, period = quota.read_text().split() if quota.exists() else ("max", "100000")
        if share != "max":
            expected = min(expected, math.ceil(int(share) / int(period)))
        environment = environment | {"OMP_NUM_THREADS": ""}
        assert output_of("import popgrad._core as c; print(c.threads())", **environment) == str(expected)

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
    def test_the_default_is_the_affinity(self):
        core = min(os.sched_getaffinity(0))
        script = f"import os; os.sched_setaffinity(0, [{core}]); import popgrad._core as c; print(c.threads())"
        assert output_of(script, OMP_NUM_THREADS="") == "1"

    @pytest.mark.parametrize(
        ("omp", "own", "expected"),
        [
            ("1", "", "1"),
            ("1,4", "", "1"),
            ("1", "3", "3"),
            ("64", "", None),
            ("0", "", None),
            ("-2", "", None),
            ("x", "", None),
        ],
    )
    def test_omp_num_threads_limits_the_default(self, omp, own, expected):
        script = "import popgrad._core as c; print(c.threads())"
        expected = expected or output_of(script, OMP_NUM_THREADS="")
        assert output_of(script, OMP_NUM_THREADS=omp, POPGRAD_NUM_THREADS=own) == expected

    def test_workers_of_joblib_share_the_cores(self):
        script = """if True:
            import joblib, popgrad
            with joblib.parallel_config("loky", inner_max_num_threads=1):
                print(joblib.Parallel(n_jobs=2)(joblib.delayed(popgrad.get_num_threads)() for _ in range(4)))
        """
        assert output_of(script) == "[1, 1, 1, 1]"

    @pytest.mark.parametrize("count", ["0", "-1", "1025", "abc", "2x", "1.5", " 2", "99999999999999999999"])
    def test_a_bad_count_is_an_import_error(self, count):
        done = python("import popgrad._core", POPGRAD_NUM_THREADS=count)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: ")
        assert "POPGRAD_NUM_THREADS must be a whole number from 1 to 1024" in last
        assert repr(count) in last


# Three steps of every rule, with its states stored in every way that it has, one move of every kind, and members that
# are not stored, in both types; prints one digest for each.
DIGESTS = """
import hashlib
from types import SimpleNamespace
import numpy as np
import popgrad._core as core

def digest(*arrays):
    assert all(np.isfinite(a).all() for a in arrays)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()

n = 50_003
layers = np.array([[20_000, 1, 0, 100], [3, 0, 1, 0], [30_000, 1, 0, 0]])
extras = core.StepExtras(scale=0.9, clip=2.0, l2=0.01, decay=0.99, l1=0.001, mix=0.1, max_norm=3.0, noise_seed=2**40)
noisy = core.StepExtras(scale=0.9, mix=0.2, noise=0.3, noise_seed=2**40)
for dtype in (np.float32, np.float64):
    random = np.random.default_rng(1)
    for name, rule in core.step_rules().items():
        fields = dict(zip(rule.fields, random.uniform(0.1, 0.9, len(rule.fields))))
        packed = [np.uint16] * (rule.states > 0) + [np.uint8] * (rule.positive is not None)
        for stored in [dtype, *(packed if dtype == np.float32 and not rule.sums else [])]:
            w, average = random.normal(size=n).astype(dtype), np.zeros(n, dtype)
            state = SimpleNamespace(slots=np.zeros((rule.states, n), stored), average=average, scales=None,
                                    layers=layers, kept=np.full((3, rule.kept), 0.5))
            if stored == np.uint8:
                state.scales = np.zeros((rule.states, sum(-(-size // 256) for size in layers[:, 0])), np.float32)
            for t in range(3):
                g = random.normal(size=n).astype(dtype)
                around = extras if t or rule.sums else None
                state.average = average if around else None
                plans = [core.StepPlan(rule, fields, around), core.StepPlan(rule, fields, around and noisy)]
                core.step_groups(plans, w, g, state, t)
            scales = [] if state.scales is None else [state.scales]
            print(name, stored.__name__, digest(w, average, state.slots, state.kept, *scales))
    for name, rule in core.move_rules().items():
        out = [random.normal(size=(7, 20_011)).astype(dtype) for _ in range(rule.outputs)]
        sources = [random.normal(size=(7, 20_011)).astype(dtype) for _ in range(rule.sources)]
        core.move(rule, random.uniform(0.1, 0.9, len(rule.fields)), out, sources, 123, 4, 5,
                  chosen=random.integers(0, 20_011, 7))
        print(name, dtype.__name__, digest(*out))
    center = random.normal(size=20_011).astype(dtype)
    for rank, parts in (0, [[0, 20_011]]), (3, [[100, 200], [0, 11]]):
        noise = core.Noise(0.3, 70, True, 2**40 + 5, 8, rank, np.array(parts))
        rows, total = np.empty((70, 20_011), dtype), np.empty(20_011, dtype)
        noise.rows(center, 0, rows)
        noise.combine(random.normal(size=70), total)
        # Sums of low rank are products, which are contracted.
        print("noise of rank", rank, dtype.__name__, digest(rows, *([] if rank else [total])))
"""


class TestSameBits:
    @staticmethod
    @functools.cache
    def digests(isa, threads):
        return output_of(DIGESTS, POPGRAD_ISA=isa, POPGRAD_NUM_THREADS=str(threads)).splitlines()

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("isa", SUPPORTED)
    def test_steps_and_moves(self, isa, threads):
        expected = self.digests("baseline", 1)
        rules = core.step_rules().values()
        packed = sum((rule.states > 0) + (rule.positive is not None) for rule in rules if not rule.sums)
        assert len(expected) == 2 * (len(rules) + len(core.move_rules()) + 2) + packed
        assert len({line.split()[-1] for line in expected}) == len(expected)
        assert self.digests(isa, threads) == expected
