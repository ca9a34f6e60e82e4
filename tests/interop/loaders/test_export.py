"""Programs that no one here wrote load what we export, and compute what our runtime computes.

compressed-tensors by Transformers with the package of that name; GPTQ and AWQ by GPTQModel. All on the CPU. Torch is too heavy for
the ordinary test run, so this has a command of its own (docs/quantized.md):

    pip install -r tests/interop/loaders/requirements.txt
    AURORA_QUANT=target/release/aurora-quant python -m pytest tests/interop/loaders
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

# GPTQModel would compile every kernel with a C++ compiler first.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import MODELS  # noqa: E402

CONTEXT, CHUNKS = 128, 4
# Another text to measure on than the embedded one, if there is one.
TEXT = os.environ.get("AURORA_QUANT_HELDOUT")


def run(*options):
    done = subprocess.run([os.environ["AURORA_QUANT"], *map(str, options)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ours(folder, work):
    """(tokens [chunks, context], log-probabilities of the scored positions, perplexity) as our runtime has them. Scored are
    the positions from the middle of a chunk to the last but one."""
    path = work / "logits.dat"
    text = ("--text", TEXT) if TEXT else ()
    said = json.loads(run("eval", folder, "--exact", "--context", CONTEXT, "--chunks", CHUNKS, "--save-logits", path, "--json", *text))
    data = path.read_bytes()
    assert data[:8] == b"_logits_"
    context, vocab, chunks = struct.unpack("<3I", data[8:20])
    tokens = np.frombuffer(data, "<i4", context * chunks, 20).reshape(chunks, context)
    row = 4 + vocab + vocab % 2
    rows = np.frombuffer(data, "<u2", offset=20 + 4 * tokens.size).reshape(-1, row)
    scale, low = rows[:, :4].copy().view("<f4").T
    logs = low[:, None] + scale[:, None] * rows[:, 4:4 + vocab].astype(np.float32)
    return tokens, logs.reshape(chunks, -1, vocab), said["perplexity"]["value"]


def computes_what_we_compute(model, folder, work):
    """Holds a loaded model's log-probabilities and perplexity against our runtime's."""
    tokens, logs, perplexity = ours(folder, work)
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
    target = np.take_along_axis(theirs, tokens[:, first + 1:, None].astype(np.int64), -1)
    found = float(np.exp(-target.mean()))
    print(f"log-probabilities differ by {np.abs(theirs - logs)[near].max():.2e}, perplexity {found:.5f}, ours {perplexity:.5f}")
    assert np.abs(theirs - logs)[near].max() < 1e-2
    assert abs(found / perplexity - 1) < 0.005


def in_single_precision(model):
    """The model that GPTQModel loaded, with activations in single precision: in half precision, in which it runs, they alone move
    log-probabilities by 0.01. The weights are those that its own kernels multiply with."""
    for name, module in list(model.named_modules()):
        # This kernel rounds activations whatever they come in; what it makes of unit vectors is the matrix.
        if type(module).__name__ == "AwqTorchLinear":
            linear = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            with torch.no_grad():
                linear.weight.copy_(module(torch.eye(module.in_features, dtype=torch.float16)).T)
            model.set_submodule(name, linear)
    return model.float()


CALIBRATED = ("--samples", "8", "--context", "128")


@pytest.mark.parametrize("options", [
    ("--group-size", "128", "--bits", "4", "--sym"),
    ("--group-size", "64", "--bits", "4", "--asym"),
    ("--group-size", "32", "--bits", "8", "--sym"),
    ("--group-size", "128", "--bits", "4", "--sym", "--method", "gptq", *CALIBRATED),
])
def test_transformers_loads_compressed_tensors(tmp_path, options):
    folder = tmp_path / "export"
    run("convert", MODELS / "bookworm-8m", "--format", "compressed-tensors", *options, "-o", folder, "--quiet")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False))
    computes_what_we_compute(model, folder, tmp_path)


@pytest.mark.parametrize("options", [
    ("gptq", "--group-size", "128", "--bits", "4", "--sym"),
    ("gptq", "--group-size", "64", "--bits", "4", "--asym"),
    ("gptq", "--group-size", "32", "--bits", "8", "--sym"),
    ("gptq", "--group-size", "128", "--bits", "4", "--sym", "--method", "gptq", *CALIBRATED),
    ("awq", "--group-size", "128", "--asym"),
    ("awq", "--group-size", "32", "--sym"),
    ("awq", "--group-size", "64", "--asym", "--method", "awq", *CALIBRATED),
])
def test_gptqmodel_loads_gptq_and_awq(tmp_path, options):
    from gptqmodel import BACKEND, GPTQModel
    folder = tmp_path / "export"
    run("convert", MODELS / "bookworm-8m", "--format", *options, "-o", folder, "--quiet")
    loaded = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    kernels = {type(module).__name__ for module in loaded.model.modules()}
    assert kernels & {"TorchLinear", "AwqTorchLinear"}, kernels
    computes_what_we_compute(in_single_precision(loaded.model), folder, tmp_path)
