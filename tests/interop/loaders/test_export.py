"""Transformers, with the compressed-tensors package, loads what we export and computes what our runtime computes.

Torch is too heavy for the ordinary test run, so this has a command of its own (docs/quantized.md):

    pip install -r tests/interop/loaders/requirements.txt
    AURORA_QUANT=target/release/aurora-quant python -m pytest tests/interop/loaders
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import MODELS  # noqa: E402

CONTEXT, CHUNKS = 128, 4


def run(*options):
    done = subprocess.run([os.environ["AURORA_QUANT"], *map(str, options)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ours(folder, work):
    """(tokens [chunks, context], log-probabilities of the scored positions, perplexity) as our runtime has them. Scored are
    the positions from the middle of a chunk to the last but one."""
    path = work / "logits.dat"
    said = json.loads(run("eval", folder, "--exact", "--context", CONTEXT, "--chunks", CHUNKS, "--save-logits", path, "--json"))
    data = path.read_bytes()
    assert data[:8] == b"_logits_"
    context, vocab, chunks = struct.unpack("<3I", data[8:20])
    tokens = np.frombuffer(data, "<i4", context * chunks, 20).reshape(chunks, context)
    row = 4 + vocab + vocab % 2
    rows = np.frombuffer(data, "<u2", offset=20 + 4 * tokens.size).reshape(-1, row)
    scale, low = rows[:, :4].copy().view("<f4").T
    logs = low[:, None] + scale[:, None] * rows[:, 4:4 + vocab].astype(np.float32)
    return tokens, logs.reshape(chunks, -1, vocab), said["perplexity"]["value"]


@pytest.mark.parametrize("options", [
    ("--group-size", "128", "--bits", "4", "--sym"),
    ("--group-size", "64", "--bits", "4", "--asym"),
    ("--group-size", "32", "--bits", "8", "--sym"),
    ("--group-size", "128", "--bits", "4", "--sym", "--method", "gptq", "--samples", "8", "--context", "128"),
])
def test_transformers_computes_what_we_compute(tmp_path, options):
    folder = tmp_path / "export"
    run("convert", MODELS / "bookworm-8m", "--format", "compressed-tensors", *options, "-o", folder, "--quiet")
    tokens, logs, perplexity = ours(folder, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False))
    first = tokens.shape[1] - 1 - logs.shape[1]
    ids = torch.tensor(tokens.astype(np.int64))
    # Each chunk begins with the token that every text begins with, where there is one.
    start = AutoTokenizer.from_pretrained(folder)("a").input_ids[0]
    if start == model.config.bos_token_id:
        ids[:, 0] = start
    with torch.no_grad():
        logits = model(ids).logits[:, first:-1].float()
    theirs = torch.log_softmax(logits, -1).numpy()
    # The file keeps 16 bits for a range of 16 below the largest logit.
    near = theirs > theirs.max(-1, keepdims=True) - 15
    assert np.abs(theirs - logs)[near].max() < 1e-2
    target = np.take_along_axis(theirs, tokens[:, first + 1:, None].astype(np.int64), -1)
    assert abs(np.exp(-target.mean()) / perplexity - 1) < 0.005
