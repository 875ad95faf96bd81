"""The Hopper kernels fit: compiled for an H200 by the compiler of CUDA, which needs no GPU."""

import os
import re
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MOSAIC_GPU_DUMP_TO"] = tempfile.mkdtemp()  # what ptxas says of registers
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
import jax
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from kernels import SHAPES, compiled, operands

from jaxloss.fused import hopper, kernels, pallas_gpu, plan
from jaxloss.fused.blocks import Tile

DUMP = Path(os.environ["MOSAIC_GPU_DUMP_TO"])
H200 = (Path(__file__).parent / "h200.txtpb").read_text()


def build(tokens, features, classes, dtype, capped):
    """The program and its arguments, with what ptxas says of its kernels on the way."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H200, topology="1x1x1")
    mesh = topologies.make_mesh(topo=topology, mesh_shape=(1,), axis_names=("x",))
    arguments = operands(
        tokens, features, classes, dtype, capped, NamedSharding(mesh, PartitionSpec())
    )
    made = plan(*arguments[:2], implementation="mosaic_gpu", backend="gpu")
    for file in DUMP.iterdir():
        file.unlink()
    return compiled(pallas_gpu, Tile(made.rows, made.classes), arguments), made


def must_not_spill():
    """No register of any kernel goes to memory, and no product waits for the one before it."""
    reports = [file.read_text() for file in DUMP.glob("*.ptxas")]
    assert len(reports) >= 2, "ptxas says nothing"
    for report in reports:
        spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
        assert spilled and not any(map(int, spilled)), report
        assert "C7511" not in report and "serialized" not in report, report
        print(*re.findall(r"Used \d+ registers", report))


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_fit_in_registers_and_shared_memory(shape):
    """The compiler refuses what is too much for shared memory; spills are looked for."""
    program, made = build(*SHAPES[shape])
    must_not_spill()
    memory = program.memory_analysis()
    assert memory is not None
    taken = memory.temp_size_in_bytes
    assert taken < 2 * made.bytes
    print(f"{shape}: {taken / 2**20:.0f} MiB, planned {made.bytes / 2**20:.0f} MiB")


def test_a_tile_that_spills_is_found(monkeypatch):
    monkeypatch.setattr(hopper, "PART", kernels.COLUMNS)
    build(*SHAPES["ragged"])
    with pytest.raises(AssertionError, match="spill"):
        must_not_spill()


def test_stages_that_are_too_much_for_shared_memory_do_not_compile(monkeypatch):
    monkeypatch.setattr(hopper, "STAGES", (8, 8))
    with pytest.raises(ValueError, match=r"shared memory|smem"):
        build(*SHAPES["llama-3"])
    jax.clear_caches()
