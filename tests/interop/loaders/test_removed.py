"""Transformers loads the folder of what `convert --remove` leaves, by its new config.json, and computes what it computes
from the whole model with zeros in place of what went."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import NAMES  # noqa: E402
from parts import removed, zeroed  # noqa: E402

IDS = [1, 17, 5, 99, 42, 7, 180, 3, 3, 64, 11, 250]


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("part", ["ffn=25%", "heads=50%", "layers=1"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("tiny-mixtral", "tiny-qwen3-moe")])
def test_transformers_runs_what_is_left(name, part, tmp_path):
    binary = os.environ["AURORA_QUANT"]
    left, records = removed(binary, name, tmp_path, "--remove", part, "--format", "safetensors")
    if left is None:
        assert any(reason in records for reason in ("no heads can go", "possible", "none can go", "windows")), records
        return
    gap = np.abs(logits(left) - logits(zeroed(binary, name, tmp_path, records))).max()
    assert gap <= 1e-3, f"{gap:.2e}"
