import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from palaestra.launch import checkpoint
from palaestra.launch.checkpoint import CheckpointError

FULL = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "counter": torch.tensor(2**62),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "empty": torch.zeros(0, 4),
}


def folder_of(run: Path, iteration: int) -> Path:
    return run / "checkpoints" / f"{iteration:06d}"


def save(run: Path, iteration: int, value: float = 0.0) -> Path:
    return checkpoint.save(folder_of(run, iteration), {"w": torch.full((8,), value)}, {"iteration": iteration})


def test_round_trip_keeps_every_bit_name_shape_and_dtype(tmp_path: Path) -> None:
    meta = {"iteration": 7, "rate": 0.1 + 0.2, "nested": {"list": [1, None, "π"]}, 3: "three"}
    folder = checkpoint.save(folder_of(tmp_path, 7), FULL, meta)
    tensors, found = checkpoint.load(folder)
    assert tensors.keys() == FULL.keys()
    for name, tensor in FULL.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    assert tensors["scalar"] == 3.25
    assert found == {"iteration": 7, "rate": 0.1 + 0.2, "nested": {"list": [1, None, "π"]}, "3": "three"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["000007"]


def test_tied_and_strided_tensors_are_saved_by_value(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": weight, "tied": weight, "transposed": weight.T, "row": weight[1], "gradient": weight.clone()}
    tensors["gradient"].requires_grad_()
    found, _ = checkpoint.load(checkpoint.save(folder_of(tmp_path, 1), tensors, {}))
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        checkpoint.save(folder_of(tmp_path, 1), FULL, {"path": tmp_path})
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.save(folder_of(tmp_path, 1), FULL, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_latest_is_by_number_and_skips_unfinished_folders(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for iteration in (2, 10, 999_999, 1_000_000):
        save(tmp_path, iteration)
    assert checkpoint.latest(tmp_path) == folder_of(tmp_path, 1_000_000)
    (folder_of(tmp_path, 1_000_000) / "meta.json").unlink()
    assert checkpoint.latest(tmp_path) == folder_of(tmp_path, 999_999)
    os.truncate(folder_of(tmp_path, 999_999) / "state.safetensors", 50)
    assert checkpoint.latest(tmp_path) == folder_of(tmp_path, 10)
    folder_of(tmp_path, 10).rename(tmp_path / "checkpoints" / ".000010.tmp")
    assert checkpoint.latest(tmp_path) == folder_of(tmp_path, 2)


def test_saving_again_replaces_the_whole_and_a_kill_between_the_renames_is_mended(tmp_path: Path) -> None:
    save(tmp_path, 3, value=1.0)
    save(tmp_path, 3, value=2.0)
    assert checkpoint.load(folder_of(tmp_path, 3))[0]["w"][0] == 2
    folder_of(tmp_path, 3).rename(tmp_path / "checkpoints" / ".000003.replaced")
    found = checkpoint.latest(tmp_path)
    assert found == folder_of(tmp_path, 3) and checkpoint.load(found)[0]["w"][0] == 2


def test_prune_keeps_the_newest_and_clears_what_kills_left(tmp_path: Path) -> None:
    for iteration in range(5):
        save(tmp_path, iteration)
    (tmp_path / "checkpoints" / ".000009.tmp").mkdir()
    deleted = checkpoint.prune(tmp_path, keep=2)
    assert [folder.name for folder in deleted] == ["000000", "000001", "000002"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000003", "000004"]
    assert checkpoint.prune(tmp_path, keep=2) == []
    with pytest.raises(ValueError, match="at least 1"):
        checkpoint.prune(tmp_path, keep=0)


def save_for_ever(run: Path, iteration: int) -> None:
    while True:
        iteration += 1
        for _ in range(2):  # the second replaces the first
            tensors = {"w": torch.full((50_000,), float(iteration))}
            checkpoint.save(folder_of(run, iteration), tensors, {"iteration": iteration})
        checkpoint.prune(run, keep=2)


def test_a_process_killed_at_any_moment_leaves_a_run_whose_latest_checkpoint_loads(tmp_path: Path) -> None:
    chance, reached, leftovers = random.Random(0), 0, 0
    save(tmp_path, 0)
    for _ in range(15):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(tmp_path, reached))
        process.start()
        time.sleep(chance.uniform(0.03, 0.2))
        process.kill()
        process.join()
        leftovers += any(path.name.startswith(".") for path in (tmp_path / "checkpoints").iterdir())
        folder = checkpoint.latest(tmp_path)
        assert folder is not None
        tensors, meta = checkpoint.load(folder)
        assert meta["iteration"] >= reached
        assert torch.all(tensors["w"] == meta["iteration"])
        reached = meta["iteration"]
    assert reached > 15 and leftovers, "no kill fell inside a save: the test shows nothing"


def test_a_full_disk_is_named_with_bytes_needed_and_free_and_the_previous_checkpoint_survives(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        save(small, 1, value=5.0)
        tensors = {"big": torch.zeros(60_000)}  # 240,000 bytes
        checkpoint.save(folder_of(small, 2), tensors, {})
        with pytest.raises(CheckpointError, match=r"000003 was not written.*needs 240,002 bytes and [\d,]+ bytes"):
            checkpoint.save(folder_of(small, 3), tensors, {})
        assert sorted(path.name for path in (small / "checkpoints").iterdir()) == ["000001", "000002"]
        assert checkpoint.load(folder_of(small, 1))[0]["w"][0] == 5
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("limit", [100, 30_000], ids=["metadata", "tensors"])
def test_a_write_that_fails_halfway_leaves_the_previous_checkpoint(tmp_path: Path, limit: int) -> None:
    # The file-size limit makes the kernel refuse the write itself, after the free space was found to be enough.
    save(tmp_path, 1, value=5.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"000002 was not written: .*[Ff]ile too large.* bytes are free"):
            checkpoint.save(folder_of(tmp_path, 2), {"big": torch.zeros(10 if limit < 1000 else 60_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]
    latest = checkpoint.latest(tmp_path)
    assert latest is not None and checkpoint.load(latest)[0]["w"][0] == 5


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    for name in ("state.safetensors", "meta.json"):
        path = folder / name
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(CheckpointError):
                checkpoint.load(folder)
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"cut off|altered"):
                checkpoint.load(folder)
        path.write_bytes(whole)
    checkpoint.load(folder)
    (folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"newest other checkpoint of the run is .*000001"):
        checkpoint.load(folder)


def test_another_format_is_named_with_the_version_that_wrote_it(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    document = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(document | {"format": 99, "palaestra": "9.9"}))
    with pytest.raises(CheckpointError, match=r"format 99.*reads format 1.*9\.9"):
        checkpoint.load(folder)
    (folder / "meta.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON list"):
        checkpoint.load(folder)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"000005 is not a finished checkpoint.*no other checkpoint"):
        checkpoint.load(folder_of(tmp_path, 5))


def test_every_difference_of_layout_is_named() -> None:
    expected = {"policy.weight": torch.zeros(2, 3), "policy.bias": torch.zeros(3), "steps": torch.zeros(())}
    found = {
        "policy.weight": torch.zeros(2, 4),
        "policy.bais": torch.zeros(3),
        "steps": torch.zeros((), dtype=torch.int64),
    }
    checkpoint.require_same_layout(expected, dict(reversed(expected.items())), "x")
    with pytest.raises(CheckpointError) as error:
        checkpoint.require_same_layout(expected, found, "run/checkpoints/000001")
    assert str(error.value).splitlines() == [
        "run/checkpoints/000001 does not fit what it is loaded into:",
        "  missing policy.bias",
        "  unknown policy.bais (is it policy.bias?)",
        "  different policy.weight: float32[2, 4] instead of float32[2, 3]",
        "  different steps: int64[] instead of float32[]",
        "It was saved by another recipe or version: use the configuration beside it, or train anew.",
    ]


def test_many_differences_are_counted() -> None:
    with pytest.raises(CheckpointError, match="… and 80 more missing"):
        checkpoint.require_same_layout({str(i): torch.zeros(1) for i in range(100)}, {}, "x")


def test_fingerprint_ignores_order_and_sees_values() -> None:
    assert checkpoint.fingerprint({"a": 1, "b": [2]}) == checkpoint.fingerprint({"b": [2], "a": 1})
    assert checkpoint.fingerprint({"a": 1}) != checkpoint.fingerprint({"a": 2})
