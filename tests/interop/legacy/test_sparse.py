"""compressed-tensors 0.14 and torch read the sparse folders that we write, and see the weights of the dense folder.

Later releases of compressed-tensors have no sparse layouts, so this has requirements and a command of its own:

    pip install -r tests/interop/legacy/requirements.txt
    AURORA_QUANT=target/release/aurora-quant python -m pytest tests/interop/legacy
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import load_file, save_file

MODELS = Path(__file__).resolve().parents[2] / "fixtures" / "models"
NAMES = ("stories260k", "tiny-qwen3-moe")


def convert(source, folder, *options):
    command = [os.environ["AURORA_QUANT"], "convert", str(source), "-o", str(folder), "-q", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def same(found, dense):
    assert found.keys() == dense.keys()
    for name, tensor in dense.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", ("f32", "f16", "bf16"))
@pytest.mark.parametrize("layout,sparsity,format", (
    ("bitmask", "60%", "sparse-bitmask"), ("2:4", "2:4", "sparse-24-bitmask")))
@pytest.mark.parametrize("name", NAMES)
def test_compressed_tensors(tmp_path, name, layout, sparsity, format, kind):
    options = ("--method", "magnitude", "--sparsity", sparsity, "--type", kind, "--format")
    dense = load_file(convert(MODELS / name, tmp_path / "dense", *options, "safetensors") / "model.safetensors")
    ours = convert(MODELS / name, tmp_path / "sparse", *options, "compressed-tensors", "--sparse", layout)
    config = json.loads((ours / "config.json").read_text())["quantization_config"]
    compressor = ModelCompressor.from_compression_config(config)
    assert compressor.sparsity_config.format == format and compressor.quantization_compressor is None
    same(dict(compressor.sparsity_compressor.decompress(str(ours))), dense)
    # And the other way round: what it writes of these weights, we read.
    stored = load_file(ours / "model.safetensors")
    sparse = {key.removesuffix(".compressed") for key in stored if key.endswith(".compressed")}
    theirs = compressor.sparsity_compressor.compress(dense, sparse)
    save_file({key: tensor.contiguous() for key, tensor in theirs.items()}, ours / "model.safetensors")
    same(load_file(convert(ours, tmp_path / "back", "--format", "safetensors") / "model.safetensors"), dense)


@pytest.mark.parametrize("kind", ("f32", "f16", "bf16"))
@pytest.mark.parametrize("name", NAMES)
def test_csr(tmp_path, name, kind):
    options = ("--method", "magnitude", "--sparsity", "75%", "--type", kind, "--format", "safetensors")
    dense = load_file(convert(MODELS / name, tmp_path / "dense", *options) / "model.safetensors")
    found = load_file(convert(MODELS / name, tmp_path / "sparse", *options, "--sparse", "csr") / "model.safetensors")
    names = [key.removesuffix(".crow_indices") for key in found if key.endswith(".crow_indices")]
    assert len(names) > 5
    for matrix in names:
        crow, columns, values, shape = (
            found.pop(f"{matrix}.{part}") for part in ("crow_indices", "col_indices", "values", "shape"))
        found[matrix] = torch.sparse_csr_tensor(crow, columns, values, shape.tolist(), check_invariants=True).to_dense()
    same(found, dense)
