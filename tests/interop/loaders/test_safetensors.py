"""Transformers loads the floats that we write, and computes the golden logits: from checkpoints, and from GGUF files of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import MODELS, NAMES, read_json  # noqa: E402

# Golden logits are Transformers' own, computed in float32; another release or machine adds up in another order.
TOLERANCE = 1e-4


def run(*options):
    done = subprocess.run([os.environ["AURORA_QUANT"], *map(str, options)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def computes_golden_logits(folder, name, tolerance=TOLERANCE):
    """Loads all of a folder, and nothing that is not in it."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    golden = load_file(MODELS / name / "golden.safetensors")
    with torch.no_grad():
        logits = model.eval()(golden["input_ids"].long()).logits[0].float()
    gap = float((logits - golden["logits"][0]).abs().max())
    assert gap <= tolerance, f"largest difference {gap:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_returns(tmp_path, name):
    run("convert", MODELS / name, "--format", "safetensors", "--shard-size", "100KB", "-q", "-o", tmp_path / "out")
    computes_golden_logits(tmp_path / "out", name)


@pytest.mark.parametrize("name", NAMES)
def test_a_gguf_file_becomes_a_checkpoint(tmp_path, name):
    run("convert", MODELS / name, "--type", "f32", "-q", "-o", tmp_path / "x.gguf")
    run("convert", tmp_path / "x.gguf", "--format", "safetensors", "-q", "-o", tmp_path / "out")
    computes_golden_logits(tmp_path / "out", name)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.parametrize("name", NAMES)
def test_its_tokenizer_reads_what_the_other_read(tmp_path, name):
    """As the checkpoint's own does, or llama.cpp where the two differ: GGUF does not hold all of a tokenizer."""
    run("convert", MODELS / name, "--type", "bf16", "-q", "-o", tmp_path / "x.gguf")
    run("convert", tmp_path / "x.gguf", "--format", "safetensors", "-q", "-o", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    faults = []
    for case in read_json(MODELS / name / "tokenizer_cases.json")["cases"]:
        for key, special in (("ids", True), ("ids_without_special", False)):
            found = tokenizer(case["text"], add_special_tokens=special).input_ids
            if found not in (case[key], case.get(f"llama_cpp_{key}")):
                faults.append((case["text"], key, found, case[key]))
    assert not faults, faults


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_what_was_quantised_returns_as_floats(tmp_path, method):
    """The floats of a quantised export are the model that the export is."""
    run("convert", MODELS / "bookworm-8m", "--format", method, "-q", "-o", tmp_path / "codes")
    run("convert", tmp_path / "codes", "--format", "safetensors", "--type", "f32", "-q", "-o", tmp_path / "floats")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "floats", dtype=torch.float32).eval()
    original = AutoModelForCausalLM.from_pretrained(MODELS / "bookworm-8m", dtype=torch.float32).eval()
    ids = torch.tensor([[(i * 37) % 4000 + 4 for i in range(64)]])
    with torch.no_grad():
        found, want = model(ids).logits, original(ids).logits
    spread = np.sqrt(float(((found - want) ** 2).mean()) / float(want.var()))
    # Four bits: near, and not the same.
    assert 1e-3 < spread < 0.5, spread
