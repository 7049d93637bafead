"""popgrad.checkpoint: whole files or none, the same arrays back, clear errors, nothing that can run code."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import popgrad as pg
from popgrad import checkpoint

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64": np.array([np.nan, np.inf, -0.0, 5e-324]),
    "int64": np.array([[-(2**63), 2**63 - 1]]),
    "uint32": np.arange(3, dtype=np.uint32),
    "bool": np.array([True, False]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::3],
    "backwards": np.arange(4)[::-1],
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_with_type_shape_and_bits(name, tmp_path):
    array = ARRAYS[name]
    path = checkpoint.save(tmp_path / "a", {name: array, "other": np.ones(2)})
    loaded, numbers = checkpoint.load(path)
    assert sorted(loaded) == sorted([name, "other"])
    assert loaded[name].dtype == array.dtype
    assert loaded[name].shape == array.shape
    assert loaded[name].tobytes() == array.tobytes()
    assert numbers == {}


def test_numbers_come_back(tmp_path):
    numbers = {"a": 1, "b": 0.1, "c": ["x", None, True], "d": {"e": 2**64 - 1, "ü": "ö"}, "inf": float("inf")}
    path = checkpoint.save(tmp_path / "a", {"x": np.zeros(1)}, numbers)
    assert checkpoint.load(path)[1] == numbers
    assert checkpoint.load(checkpoint.save(path, {}, {}))[1] == {}


def test_paths_are_text_or_path(tmp_path):
    path = checkpoint.save(str(tmp_path / "a"), {"x": np.arange(3)})
    assert path == tmp_path / "a"
    np.testing.assert_array_equal(checkpoint.load(str(path))[0]["x"], [0, 1, 2])


def test_other_programs_read_it_and_it_reads_theirs(tmp_path):
    path = checkpoint.save(tmp_path / "a", {"x": np.arange(6.0).reshape(2, 3).T}, {"n": 1})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["x"], [[0, 3], [1, 4], [2, 5]])
    safetensors.numpy.save_file({"y": np.ones(2)}, path, {"format": "pt"})
    arrays, numbers = checkpoint.load(path)
    np.testing.assert_array_equal(arrays["y"], [1, 1])
    assert numbers == {}


# --- Whole files or none ------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a"
    for content in (b"first", b"second, which is longer", b""):
        assert checkpoint.write_file(path, content) == path
        assert path.read_bytes() == content
        assert os.listdir(tmp_path) == ["a"]


def test_files_have_the_permissions_of_any_new_file(tmp_path, monkeypatch):
    before, umask = os.umask(0o027), os.umask
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("other threads share the umask"))
    try:
        path = checkpoint.write_file(tmp_path / "a", b"x")
    finally:
        umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), pg.InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_the_last_good_file_survives_a_failure(stage, error, expected, tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "a", {"x": np.arange(3)})
    good = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(expected) as caught:
        checkpoint.save(path, {"x": np.zeros(100)})
    monkeypatch.undo()
    if expected is pg.InputError:
        assert str(caught.value) == f"[write] cannot write {str(path)!r}: No space left on device"
    assert path.read_bytes() == good
    assert os.listdir(tmp_path) == ["a"]


# --- Errors -------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(pg.InputError, match=r"\[write\] cannot write '.*gone/a': No such file or directory"):
        pg.MLP([2, 2]).save(tmp_path / "gone" / "a")


def test_a_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(pg.InputError, match=r"\[write\] cannot write '.*': Is a directory"):
        checkpoint.write_file(tmp_path, b"x")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """Told by the system, since root may write anywhere."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(pg.InputError, match=r"\[write\] cannot write '.*a': Permission denied"):
        checkpoint.write_file(tmp_path / "a", b"x")


def valid(path):
    return checkpoint.save(path, {"0.weight": np.ones((2, 3)), "0.bias": np.ones(2)}, {"n": 1}).read_bytes()


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes):
    return json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


DAMAGED = {
    "empty": lambda good: b"",
    "cut_in_header": lambda good: good[:20],
    "cut_in_data": lambda good: good[:-1],
    "extra": lambda good: good + b"x",
    "text": lambda good: b"0.weight,0.bias\n1,2\n",
    "pickle": lambda good: pickle.dumps({"x": 1}),
    "zip": lambda good: b"PK\x03\x04" + good,
    "huge_header": lambda good: b"\xff" * 8 + good[8:],
    "no_json": lambda good: header(b"{x}     "),
    "shape": lambda good: header(entry(shape=[3]), bytes(8)),
    "offsets": lambda good: header(entry(data_offsets=[0, 1 << 60]), bytes(8)),
    "type": lambda good: header(entry(dtype="F31"), bytes(8)),
    "metadata_no_json": lambda good: header(b'{"__metadata__": {"popgrad": "{"}}'),
    "metadata_list": lambda good: header(b'{"__metadata__": {"popgrad": "[1]"}}'),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("load", [checkpoint.load, pg.MLP.load])
def test_damaged_files_are_named(load, damage, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(valid(path)))
    with pytest.raises(pg.InputError, match=r"\[load\] '.*model.safetensors' is not a complete safetensors file: "):
        load(path)


def test_every_cut_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "a"
    good = valid(path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(pg.InputError):
            checkpoint.load(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(pg.InputError, match=r"\[load\] cannot read '.*gone': No such file"):
        checkpoint.load(tmp_path / "gone")
    with pytest.raises(pg.InputError, match=r"\[load\] cannot read "):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("known", [False, True])
def test_types_that_numpy_lacks_are_named(tmp_path, known):
    if known:  # JAX teaches NumPy the name of the type, in the whole process
        pytest.importorskip("ml_dtypes", reason="no package is installed that teaches NumPy bfloat16")
    path = tmp_path / "a"
    path.write_bytes(header(entry(dtype="BF16", data_offsets=[0, 4]), bytes(4)))
    with pytest.raises(pg.InputError, match=r"\[load\] '.*a' holds a type that NumPy lacks.*save it as float32"):
        checkpoint.load(path)


# --- Files that hold no network -----------------------------------------------------------------------------------

W, B = np.ones((2, 3), np.float32), np.ones(2, np.float32)

NO_NETWORK = {
    "nothing": ({}, r"does not hold a weight \(out, in\) and a bias \(out,\) for every layer"),
    "no_bias": ({"0.weight": W}, r"does not hold a weight"),
    "no_weight": ({"0.bias": B}, r"does not hold a weight"),
    "bias_length": ({"0.weight": W, "0.bias": W[0]}, r"does not hold a weight"),
    "weight_vector": ({"0.weight": B, "0.bias": B}, r"does not hold a weight"),
    "names": ({"weight": W, "bias": B}, r"holds '(weight|bias)'; expected names such as '0.weight' and '0.bias'"),
    "other_kind": ({"0.weight": W, "0.scale": B}, r"holds '0.scale'; expected names such as"),
    "digit": ({"².weight": W, "².bias": B}, r"expected names such as '0.weight'"),
    "apart": (
        {"0.weight": W, "0.bias": B, "2.weight": W, "2.bias": B},
        r"sizes of consecutive layers .* do not match",
    ),
    "float16": ({"0.weight": W.astype(np.float16), "0.bias": B.astype(np.float16)}, r"unknown dtype 'float16'"),
}


@pytest.mark.parametrize(("arrays", "message"), NO_NETWORK.values(), ids=NO_NETWORK)
def test_files_without_a_network_are_refused(arrays, message, tmp_path):
    path = checkpoint.save(tmp_path / "m", arrays)
    with pytest.raises(pg.InputError, match=message):
        pg.MLP.load(path)


def test_half_precision_loads_when_a_type_is_named(tmp_path):
    path = checkpoint.save(tmp_path / "m", {"0.weight": W.astype(np.float16), "0.bias": B.astype(np.float16)})
    np.testing.assert_array_equal(pg.MLP.load(path, dtype="float32").params, 1)


@pytest.mark.parametrize("saved", [{"color": "red"}, [1], "x"])
def test_settings_of_another_version_are_refused(saved, tmp_path):
    path = checkpoint.save(tmp_path / "m", {"0.weight": W, "0.bias": B}, {"MLP": saved})
    with pytest.raises(pg.InputError, match=r"\[MLP.load\] .* holds settings that this version does not know"):
        pg.MLP.load(path)


def test_a_file_that_names_an_unknown_setting_value_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "m", {"0.weight": W, "0.bias": B}, {"MLP": {"activation": "mish"}})
    with pytest.raises(pg.InputError, match=r"unknown activation 'mish'"):
        pg.MLP.load(path)
    assert pg.MLP.load(path, activation="silu").activation == "silu"


def test_nothing_in_the_package_unpickles():
    for file in Path(checkpoint.__file__).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for word in ("import pickle", "allow_pickle=True", "torch.load(", "joblib"):
            assert word not in text, f"{file.name}: {word}"


# --- Checksums ----------------------------------------------------------------------------------------------------


def test_every_changed_bit_is_noticed(tmp_path):
    """Spaces that pad the header are not part of the content."""
    arrays = {"x": np.arange(6, dtype=np.float32), "s": np.array(3.5), "u": np.arange(3, dtype=np.uint32)}
    path = checkpoint.save(tmp_path / "a", arrays, {"step": 17, "loss": 0.25}, checksum=True)
    good, (loaded, numbers) = path.read_bytes(), checkpoint.load(path, checksum=True)
    for place in range(8 * len(good)):
        changed = bytearray(good)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            again, seen = checkpoint.load(path, checksum=True)
        except pg.InputError:
            continue
        assert seen == numbers
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in again.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in loaded.items()
        }, place


def test_a_checksum_may_be_asked_for(tmp_path):
    path = checkpoint.save(tmp_path / "a", {"x": np.zeros(3)}, {"n": 1})
    checkpoint.load(path)
    with pytest.raises(pg.InputError, match="its checksum does not fit its content"):
        checkpoint.load(path, checksum=True)


def test_the_folder_is_synced_after_the_name_has_changed(tmp_path, monkeypatch):
    done, real = [], {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real["fsync"](descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *given: (done.append("replace"), real["replace"](*given)))
    checkpoint.write_file(tmp_path / "a", b"x")
    assert done == ["file", "replace", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert checkpoint.write_file(tmp_path / "a", b"x").read_bytes() == b"x"


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    for name in (
        ".a1.0123456789abcdef0123456789abcdef",
        ".a",
        "a1",
        ".a1.0123",
        ".b1.0123456789abcdef0123456789abcdef",
    ):
        (tmp_path / name).write_bytes(b"x")
    checkpoint.remove_temporaries(tmp_path, "a")
    assert sorted(os.listdir(tmp_path)) == [".a", ".a1.0123", ".b1.0123456789abcdef0123456789abcdef", "a1"]
