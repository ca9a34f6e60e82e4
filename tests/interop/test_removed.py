"""What `convert --remove` leaves loads in llama.cpp, which computes what the whole model computes with the same parts
set to zero: those are made here, from the checkpoint and the record of what went."""

import numpy as np
import pytest

import llama
from fixtures import NAMES
from parts import removed, zeroed

IDS = [1, 17, 5, 99, 42, 7, 180, 3, 3, 64, 11, 250]
# Rows or columns of queries are as many as the model is wide in llama.cpp, or norms span all heads.
WHOLE_HEADS = {"tiny-gpt2", "tiny-phi3", "tiny-olmo2", "tiny-qwen2"}


@pytest.mark.parametrize("part", ["ffn=25%", "heads=50%", "layers=1", "layers=auto:1"])
@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_runs_what_is_left(binary, convert, name, part, tmp_path):
    left, records = removed(binary, name, tmp_path, "--remove", part)
    if left is None:
        reasons = {"heads=50%": ("no heads can go",) if name in WHOLE_HEADS else ("possible", "none can go"),
                   "layers=1": ("windows",), "layers=auto:1": ("windows",)}[part]
        assert any(reason in records for reason in reasons), records
        return
    assert records
    whole = convert(zeroed(binary, name, tmp_path, records), "f32")
    want, found = llama.logits(whole, IDS), llama.logits(left, IDS)
    gap = np.abs(found - want).max()
    # Sums have another order; GELU goes through a table of half precision.
    assert gap <= (2e-2 if name in ("tiny-gemma2", "tiny-gemma3", "tiny-gpt2") else 1e-3), f"{gap:.2e}"
