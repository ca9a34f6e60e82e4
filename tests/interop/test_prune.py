"""Pruning: masks and losses against plain NumPy versions of the papers' algorithms, and llama.cpp on pruned files."""

import subprocess

import gguf
import numpy as np
import pytest

import llama
from fixtures import FIXTURES, MODELS
from test_logits import Q8_ERROR, relative_rms

TEXT = FIXTURES / "eval" / "eval.txt"
NAME = "stories260k"
# A matrix with one block of columns, and one whose columns SparseGPT takes in two.
MATRICES = ["blk.1.attn_q.weight", "blk.2.ffn_down.weight"]


@pytest.fixture(scope="module")
def statistics(binary, tmp_path_factory):
    out = tmp_path_factory.mktemp("prune") / "statistics.gguf"
    subprocess.run([binary, "calibrate", str(MODELS / NAME), "--text", str(TEXT), "--context", "64", "--hessian", "-o",
                    str(out), "-q"], check=True, timeout=300)
    return out


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def weights(path, name):
    tensor = tensors(path)[name]
    return tensor.data.reshape([int(n) for n in reversed(tensor.shape)]).astype(np.float64)


def products(statistics, name):
    """E[x x^T] of a matrix's input, and its mean squares."""
    all_tensors = tensors(statistics)
    sums = all_tensors[f"{name}.in_sum2"].data.reshape(-1)
    count = float(all_tensors[f"{name}.counts"].data.sum())
    gram = np.zeros((len(sums), len(sums)))
    gram[np.tril_indices(len(sums))] = all_tensors[f"{name}.in_gram"].data.reshape(-1)
    gram += np.tril(gram, -1).T
    return shrunk(gram / count, count), sums.astype(np.float64) / count


def lowest(scores, count):
    """Of every row, which are among the lowest."""
    goes = np.zeros(scores.shape, bool)
    np.put_along_axis(goes, np.argsort(scores, axis=-1, kind="stable")[..., :count], True, -1)
    return goes


def wanda(w, mean_sq, sparsity):
    scores = np.abs(w) * np.sqrt(mean_sq)
    if sparsity == "2:4":
        return lowest(scores.reshape(len(w), -1, 4), 2).reshape(w.shape)
    return lowest(scores, round(float(sparsity) * w.shape[1]))


def shrunk(h, tokens):
    """Correlations pulled towards zero by what chance has in them (Schäfer & Strimmer 2005), with a quarter of the
    tokens as draws: done before solving, so that few tokens do no harm."""
    scales = 1 / np.sqrt(np.diag(h))
    squares = (np.tril(h * np.outer(scales, scales), -1) ** 2).sum()
    pairs = len(h) * (len(h) - 1) / 2
    share = min(1, (pairs + squares) * 4 / (tokens * squares))
    return np.where(np.eye(len(h), dtype=bool), h, (1 - share) * h)


def sparsegpt(w, h, sparsity):
    """Frantar & Alistarh 2023, algorithm 1, with blocks of 128 columns; dense, in f64."""
    w, n = w.copy(), len(h)
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(n)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    goes = np.zeros(w.shape, bool)
    for start in range(0, n, 128):
        stop = min(start + 128, n)
        pivots = np.diag(upper)[start:stop]
        if sparsity != "2:4":
            scores = w[:, start:stop] ** 2 / pivots**2
            count = round(float(sparsity) * len(w) * stop) - round(float(sparsity) * len(w) * start)
            goes[:, start:stop] = lowest(scores.reshape(1, -1), count).reshape(scores.shape)
        for i in range(start, stop):
            if sparsity == "2:4" and i % 4 == 0:
                scores = w[:, i:i + 4] ** 2 / np.diag(upper)[i:i + 4] ** 2
                goes[:, i:i + 4] = lowest(scores, 2)
            error = np.where(goes[:, i], w[:, i], 0.0) / upper[i, i]
            w[:, i:] -= np.outer(error, upper[i, i:])
            w[goes[:, i], i] = 0.0
    return w, goes


def loss(w, values, h):
    return np.einsum("ri,ij,rj->", w - values, h, w - values)


@pytest.fixture(scope="module")
def dense(convert):
    return convert(MODELS / NAME, "f32")


@pytest.mark.parametrize("sparsity", ["0.5", "0.7", "2:4"])
@pytest.mark.parametrize("name", MATRICES)
def test_wandas_mask_is_the_papers(convert, statistics, dense, name, sparsity):
    path = convert(MODELS / NAME, "f32", "--method", "wanda", "--sparsity", sparsity, "--stats", str(statistics))
    w, ours = weights(dense, name), weights(path, name)
    goes = wanda(w, products(statistics, name)[1], sparsity)
    assert (ours[~goes] == w[~goes]).mean() > 0.9999  # scores in f32 may tie where those in f64 do not
    assert ((ours == 0) == goes).mean() > 0.9999
    assert (ours == 0).sum() == goes.sum()


@pytest.mark.parametrize("sparsity", ["0.5", "0.7", "2:4"])
@pytest.mark.parametrize("name", MATRICES)
def test_sparsegpts_mask_and_loss_are_the_papers(convert, statistics, dense, name, sparsity):
    path = convert(MODELS / NAME, "f32", "--method", "sparsegpt", "--sparsity", sparsity, "--stats", str(statistics))
    w, ours, h = weights(dense, name), weights(path, name), products(statistics, name)[0]
    values, goes = sparsegpt(w, h, sparsity)
    assert (ours == 0).sum() == goes.sum()
    agreement, ratio = ((ours == 0) == goes).mean(), loss(w, ours, h) / loss(w, values, h)
    assert agreement > 0.995 and abs(ratio - 1) < 0.002, f"{agreement:.4f} {ratio:.4f}"


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "admm"])
def test_llama_cpp_computes_the_same_from_pruned_files(binary, convert, statistics, method):
    words = [] if method == "magnitude" else ["--stats", str(statistics)]
    floats = convert(MODELS / NAME, "f32", "--method", method, *words)
    ids = list(range(3, 67))
    want = llama.logits(floats, ids)
    codes = convert(MODELS / NAME, "q8_0", "--pure", "--method", f"{method}+gptq" if words else method, *words)
    error = relative_rms(llama.logits(codes, ids), want)
    assert error <= 2 * Q8_ERROR, f"relative error {error:.4f}"
