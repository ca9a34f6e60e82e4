"""Sparse GGUF files: a reader written from docs/sparse.md sees the weights of the dense file, and llama.cpp refuses them
by name, but loads what is made of them."""

import subprocess

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import llama
import sparse
from fixtures import MODELS

LAYOUTS = (("bitmask", "50%"), ("2:4", "2:4"))
KINDS = ("f32", "f16", "bf16", "q8_0", "q4_0")
# Rows of 32 codes of four bits are not smaller with an index beside them.
CASES = [(name, *layout, kind) for name in ("stories260k", "tiny-qwen3-moe") for layout in LAYOUTS for kind in KINDS
         if (name, layout[0], kind) != ("tiny-qwen3-moe", "bitmask", "q4_0")]
# Rows of 64 are, with a quarter of them.
CASES = [(name, layout, "75%" if (layout, kind) == ("bitmask", "q4_0") else sparsity, kind)
         for name, layout, sparsity, kind in CASES]


@pytest.mark.parametrize("name,layout,sparsity,kind", CASES)
def test_a_second_reader_sees_the_dense_weights(convert, name, layout, sparsity, kind):
    options = ("--method", "magnitude", "--sparsity", sparsity, "--pure")
    dense = {t.name: t for t in GGUFReader(convert(MODELS / name, kind, *options)).tensors}
    reader = sparse.Reader(convert(MODELS / name, kind, *options, "--sparse", layout))
    found = sparse.matrices(reader)
    assert len(found) > 5
    for matrix, weights in found.items():
        wanted = dense[matrix]
        wanted = dequantize(wanted.data, wanted.tensor_type).reshape(weights.shape)
        assert np.array_equal(weights, wanted), matrix
    # What is not sparse is there as it is.
    parts = {f"{name.removesuffix('.weight')}.{end}" for name in found for end in ("mask", "index", "values", "scales")}
    for tensor in dense.keys() - found.keys():
        assert reader.tensors[tensor][2] == dense[tensor].data.tobytes(), tensor
    assert reader.tensors.keys() - parts == dense.keys() - found.keys()


@pytest.mark.parametrize("layout,sparsity", LAYOUTS)
def test_llama_cpp_refuses_the_name_and_loads_the_dense_file(binary, convert, tmp_path, capfd, layout, sparsity):
    options = ("--method", "magnitude", "--sparsity", sparsity)
    made = convert(MODELS / "stories260k", "q8_0", *options, "--sparse", layout)
    with pytest.raises(ValueError):
        llama_cpp.Llama(str(made), verbose=True)
    assert "unknown model architecture: 'sparse-llama'" in capfd.readouterr().err
    back = tmp_path / "back.gguf"
    subprocess.run([binary, "convert", str(made), "-o", str(back), "-q"], check=True, timeout=300)
    dense = convert(MODELS / "stories260k", "q8_0", *options)
    assert back.read_bytes() == dense.read_bytes()
    ids = [1, 403, 407, 261, 378]
    assert np.isfinite(llama.logits(back, ids)).all()
