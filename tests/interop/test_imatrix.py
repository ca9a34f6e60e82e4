"""Importance matrices: ours through llama.cpp's reader and quantiser, and what they are sums of."""

import subprocess

import gguf
import numpy as np
import pytest

from fixtures import FIXTURES, MODELS

TEXT = FIXTURES / "eval" / "eval.txt"
CONTEXT = 32


@pytest.fixture(scope="session")
def calibrate(binary, tmp_path_factory):
    """`calibrate(model, *options)` -> path of the file of statistics."""
    folder = tmp_path_factory.mktemp("imatrix")

    def run(name, *options):
        out = folder / f"{name}-{len(list(folder.iterdir()))}.gguf"
        done = subprocess.run(
            [binary, "calibrate", str(MODELS / name), "--text", str(TEXT), "--context", str(CONTEXT),
             "-o", str(out), "-q", *options], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return out

    return run


def field(reader, key):
    return reader.get_field(key).contents()


@pytest.mark.parametrize("name", ["stories260k", "tiny-mixtral", "tiny-gpt2"])
def test_the_layout_is_llama_imatrixs(calibrate, convert, name):
    reader = gguf.GGUFReader(calibrate(name))
    assert field(reader, "general.type") == "imatrix"
    assert field(reader, "imatrix.datasets") == [str(TEXT)]
    assert field(reader, "imatrix.chunk_size") == CONTEXT
    chunks = field(reader, "imatrix.chunk_count")
    tensors = {t.name: t for t in reader.tensors}
    matrices = {t.name: t for t in gguf.GGUFReader(convert(MODELS / name, "f32")).tensors
                if t.name.startswith("blk.") and len(t.shape) > 1}
    # llama-imatrix: every matrix of the blocks, no other.
    assert {n.removesuffix(".in_sum2") for n in tensors if n.endswith(".in_sum2")} == set(matrices)
    for matrix, info in matrices.items():
        cols, experts = int(info.shape[0]), int(info.shape[2]) if len(info.shape) > 2 else 1
        sums, counts = tensors[f"{matrix}.in_sum2"], tensors[f"{matrix}.counts"]
        assert [int(n) for n in sums.shape] == [cols, experts]
        assert [int(n) for n in counts.shape] == [1, experts]
        used = 2 if experts > 1 else 1  # tiny-mixtral: two of four
        assert counts.data.sum() == chunks * CONTEXT * used
        assert (sums.data >= 0).all() and sums.data.max() > 0


def test_the_triangle_is_a_gram_matrix(calibrate):
    tensors = {t.name: t for t in gguf.GGUFReader(calibrate("stories260k", "--hessian")).tensors}
    grams = [n for n in tensors if n.endswith(".in_gram")]
    assert len(grams) == 4 * 5
    for name in grams:
        sums = tensors[name.replace(".in_gram", ".in_sum2")].data.reshape(-1)
        size = len(sums)
        gram = np.zeros((size, size))
        gram[np.tril_indices(size)] = tensors[name].data.reshape(-1)
        gram += np.tril(gram, -1).T
        # Factors of products are rounded to a 2047th of their channel's largest, the sums of squares are not: four times what
        # that adds up to where one token outweighs all others.
        np.testing.assert_allclose(np.diag(gram), sums, rtol=4 / (2047 * 6**0.5))
        # Among all channels most of it cancels.
        np.testing.assert_allclose(np.trace(gram), sums.sum(dtype=np.float64), rtol=2e-5)
        # Positive semi-definite up to the rounding of its f32 numbers.
        assert np.linalg.eigvalsh(gram).min() > -1e-5 * np.trace(gram)
