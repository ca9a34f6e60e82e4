"""Quantised checkpoints as GGUF: the numbers of a NumPy decoder, seen through the `gguf` package and llama.cpp."""

import json
import subprocess

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import packing
from packing import awq_words, made_up, words


def run(binary, *options):
    done = subprocess.run([binary, *map(str, options)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def values(path):
    """{name: (type, float32 values)}"""
    return {
        t.name: (t.tensor_type.name, dequantize(t.data, t.tensor_type).astype(np.float32).reshape(-1))
        for t in GGUFReader(path).tensors
    }


def check(binary, folder, source, plain, kinds):
    """Keeps the integers of `source`, and holds what is written against `plain`, the same model as floats.

    `kinds`: the types that its matrices may come to. Returns the largest error, which the record has to state too."""
    kept, floats = folder / "kept.gguf", folder / "floats.gguf"
    record = json.loads(run(binary, "convert", source, "-o", kept, "--force", "--json"))
    run(binary, "convert", plain, "--type", "f32", "-o", floats, "--force", "--quiet")
    found, want = values(kept), values(floats)
    assert found.keys() == want.keys()
    stated = {t["name"]: t for t in record["tensors"]}
    worst, packed = 0.0, 0
    for name, (kind, numbers) in found.items():
        error = float(np.abs(numbers - want[name][1]).max())
        assert stated[name]["largest_error"] == np.float32(error), name
        if "packed" in stated[name]:
            packed += 1
            assert kind in kinds, (name, kind)
            worst = max(worst, error)
        else:
            assert error == 0.0, name
    assert packed > 0
    return worst


class TestReal:
    """What GPTQModel wrote from bookworm-8m."""

    @pytest.fixture(scope="class", params=["gptq-sym-g32", "awq-sym-g32", "awq-asym-g128"])
    @staticmethod
    def case(request, tmp_path_factory):
        folder = tmp_path_factory.mktemp(request.param)
        source, tensors = packing.real(request.param, folder)
        stems = [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]
        assert len(stems) == 14
        decode = packing.decode_awq if "awq" in request.param else lambda t, s: packing.decode_gptq(t, s, 4)
        decoded = {stem: decode(tensors, stem) for stem in stems}
        return request.param, folder, source, packing.plain(source, tensors, decoded, folder), decoded

    def test_integers_are_kept(self, binary, case):
        name, folder, source, plain, decoded = case
        if "asym" not in name:
            assert check(binary, folder, source, plain, {"Q4_0"}) == 0.0
            return
        error = check(binary, folder, source, plain, {"Q4_1"})
        # Half an ulp of a minimum of up to 15 scales.
        largest = max(np.abs(w).max() for w in decoded.values())
        assert 0.0 < error <= 2.0 ** -11 * 2 * largest

    def test_llama_cpp_runs_it(self, binary, case):
        from llama import logits
        _, folder, source, plain, _ = case
        kept, floats = folder / "run.gguf", folder / "run-f32.gguf"
        run(binary, "convert", source, "-o", kept, "--quiet")
        run(binary, "convert", plain, "--type", "f32", "-o", floats, "--quiet")
        ids = list(range(5, 45))
        ours, theirs = logits(kept, ids), logits(floats, ids)
        # Activations are rounded to eight bits beside four-bit weights; a wrong row or scale changes logits by whole units.
        assert np.abs(ours - theirs).max() < 0.25 * theirs.std()

    def test_evaluation_sees_the_same_numbers(self, binary, case):
        name, folder, source, plain, _ = case
        kept = folder / "eval.gguf"
        run(binary, "convert", source, "-o", kept, "--quiet")
        found = json.loads(run(binary, "eval", source, "--reference", plain, "--exact", "--chunks", "2", "--json"))
        assert abs(found["divergence"]["kl"]["value"]) < 1e-9
        found = json.loads(run(binary, "eval", kept, "--reference", source, "--exact", "--chunks", "2", "--json"))
        assert abs(found["divergence"]["kl"]["value"]) < (1e-4 if "asym" in name else 1e-9)


def gptq(bits, group, symmetric, v2=False, order=None):
    """A packer; `order`: None without g_idx, "trivial" or "act"."""
    def pack(rng, outs, ins):
        size = ins if group == -1 else group
        groups = ins // size
        code = rng.integers(0, 2 ** bits, (ins, outs))
        scales = rng.uniform(1e-3, 4e-3, (groups, outs)).astype(np.float16)
        middle = 2 ** (bits - 1)
        zero = np.full((groups, outs), middle) if symmetric else rng.integers(1, 2 ** bits, (groups, outs))
        index = np.arange(ins) // size
        if order == "act":
            index = rng.permutation(index)
        parts = {
            ".qweight": ("I32", words(code.T, bits).T),
            ".qzeros": ("I32", words(zero if v2 else zero - 1, bits)),
            ".scales": ("F16", scales),
        }
        if order:
            parts[".g_idx"] = ("I32", index)
        weights = scales.astype(np.float32)[index] * (code - zero[index]).astype(np.float32)
        return parts, np.ascontiguousarray(weights.T)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": order == "act",
              "checkpoint_format": "gptq_v2" if v2 else "gptq"}
    return pack, config


def awq(group):
    def pack(rng, outs, ins):
        size = ins if group == -1 else group
        code, zero = rng.integers(0, 16, (ins, outs)), rng.integers(0, 16, (ins // size, outs))
        scales = rng.uniform(1e-3, 4e-3, (ins // size, outs)).astype(np.float16)
        index = np.arange(ins) // size
        weights = scales.astype(np.float32)[index] * (code - zero[index]).astype(np.float32)
        parts = {".qweight": ("I32", awq_words(code)), ".qzeros": ("I32", awq_words(zero)), ".scales": ("F16", scales)}
        return parts, np.ascontiguousarray(weights.T)
    return pack, {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}


# Label: model, packer and configuration, types that the matrices come to, whether they are exact.
CASES = {
    "gptq-4-sym": ("tiny-llama3", gptq(4, 32, True, order="trivial"), {"Q4_0"}, True),
    "gptq-4-sym-v2-row": ("tiny-llama3", gptq(4, -1, True, v2=True), {"Q4_0"}, True),
    "gptq-4-asym": ("tiny-llama3", gptq(4, 64, False), {"Q4_1"}, False),
    "gptq-2-sym": ("tiny-llama3", gptq(2, 32, True), {"Q4_0"}, True),
    "gptq-2-asym-v2": ("tiny-llama3", gptq(2, 64, False, v2=True), {"Q4_0"}, True),
    "gptq-3-sym": ("tiny-llama3", gptq(3, 128, True), {"Q4_0"}, True),
    "gptq-3-asym-v2": ("tiny-llama3", gptq(3, 32, False, v2=True), {"Q4_0"}, True),
    "gptq-8-sym": ("tiny-llama3", gptq(8, 32, True), {"Q8_0"}, True),
    "gptq-8-asym": ("tiny-llama3", gptq(8, 64, False), {"F16"}, False),
    "gptq-4-act-order": ("tiny-llama3", gptq(4, 32, True, order="act"), {"F16"}, False),
    "gptq-4-short-groups": ("tiny-llama3", gptq(4, 16, True), {"F16"}, False),
    "gptq-4-experts": ("tiny-mixtral", gptq(4, 32, True), {"Q4_0"}, True),
    "gptq-4-turned": ("tiny-gpt2", gptq(4, 32, True), {"Q4_0"}, True),
    "gptq-3-fused": ("tiny-phi3", gptq(3, 64, False), {"Q4_0"}, True),
    "awq": ("tiny-llama3", awq(32), {"Q4_1"}, False),
    "awq-row": ("tiny-qwen2", awq(-1), {"Q4_1"}, False),
    "awq-fused": ("tiny-phi3", awq(64), {"Q4_1"}, False),
}


@pytest.mark.parametrize("label", CASES)
def test_made_up(binary, tmp_path, label):
    model, (pack, config), kinds, exact = CASES[label]
    source, plain = made_up(model, tmp_path, pack, config, label)
    error = check(binary, tmp_path, source, plain, kinds)
    if exact:
        assert error == 0.0
    else:
        # What half precision rounds by: weights (or minima) of up to 255 scales of 0.004.
        assert 0.0 < error <= float(np.spacing(np.float16(255 * 0.004))) / 2


def test_a_zero_of_zero_in_the_first_format(binary, tmp_path):
    """GPTQModel takes one off whole words, so that a zero of zero borrows from its neighbour; adding to whole words
    gives both back."""
    pack, config = gptq(4, 32, False, v2=True)

    def borrowing(rng, outs, ins):
        parts, _ = pack(rng, outs, ins)
        zero = rng.integers(0, 16, (ins // 32, outs))
        stored = words(zero, 4).view(np.uint32) - np.uint32(0x11111111)
        code = packing.fields(parts[".qweight"][1].T, 4, ins).T
        index = np.arange(ins) // 32
        weights = parts[".scales"][1].astype(np.float32)[index] * (code - zero[index]).astype(np.float32)
        return parts | {".qzeros": ("I32", stored.view(np.int32))}, np.ascontiguousarray(weights.T)

    source, plain = made_up("tiny-llama3", tmp_path, borrowing, config | {"checkpoint_format": "gptq"}, "borrow")
    check(binary, tmp_path, source, plain, {"Q4_1"})
