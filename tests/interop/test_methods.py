"""llama.cpp runs what the methods write, and finds the same numbers as our own runtime."""

import json
import subprocess

import numpy as np
import pytest

import llama
from fixtures import FIXTURES, MODELS, NAMES
from test_logits import Q8_ERROR, golden, relative_rms

TEXT = FIXTURES / "eval" / "eval.txt"
# Quick: what is looked for is a factor in the wrong place, not the last per cent.
CALIBRATION = ["--text", str(TEXT), "--context", "64", "--samples", "16"]
CONTEXT, CHUNKS = 64, 8


@pytest.mark.parametrize("method", ["awq", "awq+gptq"])
@pytest.mark.parametrize("name", NAMES)
def test_scales_leave_no_trace_in_what_llama_cpp_computes(convert, name, method):
    """A factor that one side lacks would change logits by far more than rounding to 8 bits does."""
    ids, want = golden(name)
    path = convert(MODELS / name, "q8_0", "--method", method, *CALIBRATION)
    error = relative_rms(llama.logits(path, ids), want)
    assert error <= Q8_ERROR, f"relative error {error:.4f}"


def perplexity(path):
    """As llama-perplexity scores it: chunks that begin with the begin mark, their second half counted."""
    ids = llama.Vocabulary(path).ids(TEXT.read_text(), True)
    loss, scored = 0.0, 0
    for chunk in range(CHUNKS):
        part = [ids[0]] + ids[chunk * CONTEXT + 1:(chunk + 1) * CONTEXT]
        logits = llama.logits(path, part).astype(np.float64)
        logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
        for i in range(CONTEXT // 2, CONTEXT - 1):
            loss -= logs[i, part[i + 1]]
            scored += 1
    return np.exp(loss / scored)


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m", "q3_k_s"])
@pytest.mark.parametrize("method", ["gptq", "awq", "awq+gptq"])
def test_perplexity_is_ours(binary, convert, method, kind):
    path = convert(MODELS / "stories260k", kind, "--method", method, *CALIBRATION)
    done = subprocess.run(
        [binary, "eval", str(path), "--text", str(TEXT), "--context", str(CONTEXT), "--chunks", str(CHUNKS), "--json"],
        capture_output=True, text=True, timeout=300, check=True)
    ours, theirs = json.loads(done.stdout)["perplexity"]["value"], perplexity(path)
    # 248 tokens, activations rounded to 8 bits on both sides, but not summed in the same order.
    assert abs(ours / theirs - 1) < 0.005, f"{ours} and {theirs}"
