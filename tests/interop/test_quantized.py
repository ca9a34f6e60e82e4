"""Quantised checkpoints as GGUF: the numbers of a NumPy decoder, seen through the `gguf` package and llama.cpp."""

import json
import subprocess

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import packing
from packing import awq_words, floats, made_up, to_bf16, words


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
    stated = compare(binary, folder, source, plain)
    packed = [t for t in stated.values() if "packed" in t]
    assert packed and all(t["type"].upper() in kinds for t in packed)
    return max(t["largest_error"] for t in packed)


def compare(binary, folder, source, plain):
    """Holds every tensor of `source` as it is kept against that of `plain`. Returns the record, by name."""
    kept, floats = folder / "kept.gguf", folder / "floats.gguf"
    record = json.loads(run(binary, "convert", source, "-o", kept, "--force", "--json"))
    run(binary, "convert", plain, "--type", "f32", "-o", floats, "--force", "--quiet")
    found, want = values(kept), values(floats)
    assert found.keys() == want.keys()
    stated = {t["name"]: t for t in record["tensors"]}
    for name, (kind, numbers) in found.items():
        error = float(np.abs(numbers - want[name][1]).max())
        assert stated[name]["largest_error"] == np.float32(error), name
        assert stated[name]["type"].upper() == kind, name
        if "packed" not in stated[name]:
            assert error == 0.0, name
    return stated


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
    """A packer; `order`: None without g_idx, "trivial", "act", or "heads": by importance within heads of 64, those of a pair
    alike."""
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
        elif order == "heads":
            pairs = index.reshape(-1, 2, 64)
            for pair in pairs:
                pair[:] = pair[:, rng.permutation(64)]
        parts = {
            ".qweight": ("I32", words(code.T, bits).T),
            ".qzeros": ("I32", words(zero if v2 else zero - 1, bits)),
            ".scales": ("F16", scales),
        }
        if order:
            parts[".g_idx"] = ("I32", index)
        weights = scales.astype(np.float32)[index] * (code - zero[index]).astype(np.float32)
        return parts, np.ascontiguousarray(weights.T)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": order in ("act", "heads"),
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


def compressed(weights, pack, format="pack-quantized", version="0.17.0"):
    """A packer and the configuration of a compressed-tensors checkpoint with one group of settings."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    config = {"quant_method": "compressed-tensors", "format": format, "version": version, "ignore": ["lm_head"],
              "quantization_status": "compressed", "config_groups": {"group_0": group}}
    return pack, config


def ct_packed(bits, group, symmetric, dense=False, act_order=False):
    half = 2 ** (bits - 1)

    def pack(rng, outs, ins):
        size = ins if group is None else group
        code = rng.integers(-half, half, (outs, ins))
        scales = to_bf16(rng.uniform(1e-3, 4e-3, (outs, ins // size)))
        zero = rng.integers(-half, half, scales.shape) * (not symmetric)
        index = np.arange(ins) // size
        parts = {
            ".weight_packed": ("I32", words(code + half, bits, dense)),
            ".weight_scale": ("BF16", scales),
            ".weight_shape": ("I64", np.array([outs, ins])),
        }
        if not symmetric:
            parts[".weight_zero_point"] = ("I32", words((zero + half).T, bits, dense).T)
        if act_order:
            index = rng.permutation(index)
            parts[".weight_g_idx"] = ("I32", index)
        return parts, floats("BF16", scales)[:, index] * (code - zero[:, index]).astype(np.float32)

    strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, **strategy}
    return compressed(weights, pack, version="0.18.0" if dense else "0.17.0")


def ct_bytes(strategy, symmetric=True):
    def pack(rng, outs, ins):
        code = rng.integers(-128, 128, (outs, ins))
        shape = (outs, 1) if strategy == "channel" else (1,)
        scales = rng.uniform(1e-3, 4e-3, shape).astype(np.float16)
        zero = rng.integers(-20, 20, shape) * (not symmetric)
        parts = {".weight": ("I8", code), ".weight_scale": ("F16", scales)}
        if not symmetric:
            parts[".weight_zero_point"] = ("I8", zero)
        return parts, (scales.astype(np.float32) * (code - zero).astype(np.float32)).reshape(outs, ins)

    weights = {"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": strategy}
    return compressed(weights, pack, "int-quantized")


def e4m3():
    """The 256 numbers of OFP8's E4M3, from its definition."""
    code = np.arange(256)
    field, part = code >> 3 & 15, (code & 7) / 8
    size = np.where(field == 0, part * 2.0 ** -6, (1 + part) * 2.0 ** (field - 7.0))
    size[code & 127 == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


def eight_bit_floats(shape_of, spread, suffix):
    """A packer: `shape_of(outs, ins)` is that of the scales, `spread(scales, outs, ins)` makes them [outs, ins]."""
    def pack(rng, outs, ins):
        code = rng.integers(0, 256, (outs, ins))
        code[code & 127 == 127] = 0
        scales = rng.uniform(5e-4, 2e-3, shape_of(outs, ins)).astype(np.float32)
        parts = {".weight": ("F8_E4M3", code.astype(np.uint8)), suffix: ("F32", scales)}
        return parts, spread(scales, outs, ins) * e4m3()[code]
    return pack


CHANNELS = eight_bit_floats(lambda o, i: (o, 1), lambda s, o, i: s, ".weight_scale")
TENSOR = eight_bit_floats(lambda o, i: (), lambda s, o, i: s, ".weight_scale")
BLOCKS = eight_bit_floats(
    lambda o, i: (-(-o // 96), -(-i // 128)),
    lambda s, o, i: np.repeat(np.repeat(s, 96, 0), 128, 1)[:o, :i], ".weight_scale_inv")

# The quantiles of a normal distribution that QLoRA's appendix lists.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)


def nf4(nested):
    def pack(rng, outs, ins):
        code = rng.integers(0, 16, (outs, ins))
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [outs, ins]}
        count = outs * ins // 64
        parts = {".weight": ("U8", (code[:, ::2] << 4 | code[:, 1::2]).reshape(-1, 1)), ".weight.quant_map": ("F32", NF4)}
        if nested:
            inner = rng.integers(0, 256, count)
            table = np.linspace(-1, 1, 256).astype(np.float32)
            outer = rng.uniform(0.01, 0.05, -(-count // 256)).astype(np.float32)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625}
            scales = table[inner] * np.repeat(outer, 256)[:count] + np.float32(0.0625)
            parts |= {".weight.absmax": ("U8", inner), ".weight.nested_absmax": ("F32", outer),
                      ".weight.nested_quant_map": ("F32", table)}
        else:
            scales = rng.uniform(0.05, 0.2, count).astype(np.float32)
            parts[".weight.absmax"] = ("F32", scales)
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        parts[".weight.quant_state.bitsandbytes__nf4"] = ("U8", text)
        return parts, np.repeat(scales.reshape(outs, -1), 64, 1) * NF4[code]
    return pack, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def int8(rng, outs, ins):
    code = rng.integers(-127, 128, (outs, ins))
    largest = rng.uniform(0.1, 0.5, outs).astype(np.float32)
    parts = {".weight": ("I8", code), ".SCB": ("F32", largest), ".weight_format": ("U8", np.array(0))}
    return parts, (largest * np.float32(1 / 127))[:, None] * code.astype(np.float32)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}

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
    "gptq-4-short-groups": ("tiny-llama3", gptq(4, 16, True), {"F16"}, False),
    "gptq-4-experts": ("tiny-mixtral", gptq(4, 32, True), {"Q4_0"}, True),
    "gptq-4-turned": ("tiny-gpt2", gptq(4, 32, True), {"Q4_0"}, True),
    "gptq-3-fused": ("tiny-phi3", gptq(3, 64, False), {"Q4_0"}, True),
    "awq": ("tiny-llama3", awq(32), {"Q4_1"}, False),
    "awq-row": ("tiny-qwen2", awq(-1), {"Q4_1"}, False),
    "awq-fused": ("tiny-phi3", awq(64), {"Q4_1"}, False),
    "ct-4-sym": ("tiny-llama3", ct_packed(4, 32, True), {"Q4_0"}, True),
    "ct-4-sym-row": ("tiny-qwen3", ct_packed(4, None, True), {"Q4_0"}, True),
    "ct-4-asym": ("tiny-llama3", ct_packed(4, 64, False), {"Q4_1"}, False),
    "ct-8-row": ("tiny-llama3", ct_packed(8, None, True), {"Q8_0"}, True),
    "ct-3-old": ("tiny-llama3", ct_packed(3, 32, True), {"Q4_0"}, True),
    "ct-3-new": ("tiny-llama3", ct_packed(3, 32, False, dense=True), {"Q4_0"}, True),
    "ct-5-old": ("tiny-llama3", ct_packed(5, 32, True), {"Q5_0"}, True),
    "ct-5-new": ("tiny-llama3", ct_packed(5, 64, False, dense=True), {"Q5_1"}, False),
    "ct-6-old": ("tiny-llama3", ct_packed(6, 64, False), {"Q8_0"}, True),
    "ct-7-new": ("tiny-llama3", ct_packed(7, 32, False, dense=True), {"Q8_0"}, True),
    "ct-bytes": ("tiny-llama3", ct_bytes("channel"), {"Q8_0"}, True),
    "ct-bytes-asym": ("tiny-phi3", ct_bytes("tensor", False), {"F16"}, False),
    "ct-floats": ("tiny-llama3", compressed(
        {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}, CHANNELS, "float-quantized"),
        {"F16"}, False),
    "fp8-tensor": ("tiny-llama3", (TENSOR, FP8), {"F16"}, False),
    "fp8-row": ("tiny-llama3", (CHANNELS, {"quant_method": "fbgemm_fp8"}), {"F16"}, False),
    "fp8-blocks": ("tiny-mixtral", (BLOCKS, FP8 | {"weight_block_size": [96, 128]}), {"F16"}, False),
    "nf4": ("tiny-llama3", nf4(False), {"F16"}, False),
    "nf4-nested": ("tiny-mixtral", nf4(True), {"F16"}, False),
    "int8": ("tiny-llama3", (int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}), {"Q8_0"}, False),
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


# Label: model, packer and configuration, type and exactness of matrices whose columns go back to their groups.
ACT_ORDER = {
    "gptq-4-act-order": ("tiny-llama3", gptq(4, 32, True, order="act"), "q4_0", True),
    "gptq-4-asym-act-order": ("tiny-qwen2", gptq(4, 64, False, order="act"), "q4_1", False),
    "gptq-8-act-order-experts": ("tiny-mixtral", gptq(8, 32, True, order="act"), "q8_0", True),
    "gptq-3-act-order-fused": ("tiny-phi3", gptq(3, 32, True, order="act"), "q4_0", True),
    "gptq-4-act-order-bias": ("tiny-gpt2", gptq(4, 32, True, order="act"), "q4_0", True),
    "gptq-4-act-order-heads": ("tiny-llama3", gptq(4, 32, True, order="heads"), "q4_0", True),
    "ct-4-act-order": ("tiny-llama3", ct_packed(4, 64, True, act_order=True), "q4_0", True),
}


def makers(stem, tensors):
    """The matrices whose rows make the inputs of this one, channel by channel."""
    for reader, *names in [
            ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj", "mlp.gate_up_proj"),
            (".w2", ".w1", ".w3"), ("mlp.c_proj", "mlp.c_fc"), ("o_proj", "v_proj")]:
        found = [stem.removesuffix(reader) + name for name in names]
        if stem.endswith(reader) and found[0] + ".weight" in tensors:
            return found
    return []


def in_order(source, plain, name):
    """Permutes `plain` as act order in `source` asks for, where that is possible. Returns the stems of the matrices whose
    columns moved, and of those whose rows did."""
    packed, tensors = packing.load(source / "model.safetensors"), dict(packing.load(plain / "model.safetensors"))
    turned, columns, rows = name == "tiny-gpt2", [], []

    def take(stem, suffix, order, axis):
        dtype, array = tensors[stem + suffix]
        tensors[stem + suffix] = (dtype, np.take(array, order, axis))

    for stem in packing.linears(name):
        group = next(packed[stem + end][1] for end in (".g_idx", ".weight_g_idx") if stem + end in packed)
        made_by = makers(stem, tensors)
        if not made_by:
            continue
        order = of_rows = np.argsort(group, kind="stable")
        if stem.endswith("o_proj"):
            # Two query heads of 64 to a head of values: both must ask for the same.
            heads = np.argsort(group.reshape(-1, 2, 64), axis=-1, kind="stable")
            if (heads[:, 0] != heads[:, 1]).any():
                continue
            order = (heads + 64 * np.arange(4).reshape(2, 2, 1)).reshape(-1)
            of_rows = (heads[:, 0] + 64 * np.arange(2)[:, None]).reshape(-1)
        columns.append(stem)
        take(stem, ".weight", order, 0 if turned else 1)
        for maker in made_by:
            rows.append(maker)
            fused = maker.endswith("gate_up_proj")
            moved = np.concatenate([of_rows, of_rows + len(of_rows)]) if fused else of_rows
            take(maker, ".weight", moved, 1 if turned else 0)
            if maker + ".bias" in tensors:
                take(maker, ".bias", moved, 0)
    packing.save(plain / "model.safetensors", tensors)
    return columns, rows


@pytest.mark.parametrize("label", ACT_ORDER)
def test_act_order(binary, tmp_path, label):
    """Columns and rows lie where NumPy puts them; llama.cpp and our runtime compute what the checkpoint does."""
    from llama import logits
    model, (pack, config), kind, exact = ACT_ORDER[label]
    source, plain = made_up(model, tmp_path, pack, config, label)
    before = tmp_path / "before.gguf"
    run(binary, "convert", plain, "--type", "f32", "-o", before, "-q")
    columns, rows = in_order(source, plain, model)
    stated = compare(binary, tmp_path, source, plain)
    packed = [t for t in stated.values() if "packed" in t]
    moved = [t for t in packed if t.get("permuted", "").startswith("act order: columns permuted")]
    # A parameter has the matrices of all experts.
    experts = 4 if model == "tiny-mixtral" else 1
    assert len(moved) * experts == len(columns) and len(moved) >= 2
    assert {t["type"] for t in moved} == {kind} and all(t["carried"] for t in moved)
    assert max(t["largest_error"] for t in moved) == 0.0 or not exact
    followed = [t for t in stated.values() if t.get("permuted", "").startswith("rows permuted")]
    biases = [t for t in followed if t["name"].endswith(".bias")]
    assert (len(followed) - len(biases)) * experts == len(rows)
    assert len(biases) == (len(rows) if model == "tiny-gpt2" else 0)
    for t in packed:
        if t not in moved:
            assert t["type"] == "f16" and t["reason"].startswith("act order"), t
            assert "residual stream" in t["reason"] or "within heads" in t["reason"], t
    kept, ids = tmp_path / "kept.gguf", list(range(5, 45))
    ours, theirs = logits(kept, ids), logits(before, ids)
    worst = np.sort(np.abs(ours - theirs).max(1))
    # Rounded activations and F16 make a router of random weights choose another expert now and then: 1 of these 40 positions.
    # A row or column in a wrong place changes all of them by about the logits' own spread.
    assert worst[-1 if experts == 1 else -4] < 0.25 * theirs.std()
    found = json.loads(run(binary, "eval", kept, "--reference", source, "--exact", "--chunks", "2", "--json"))
    # F16 beside the exact ones (and a minimum in half precision).
    assert abs(found["divergence"]["kl"]["value"]) < (1e-4 if experts == 1 else 1e-3)


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


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-phi3", "tiny-mixtral"])
def test_floats_return_in_the_layout_of_the_model(binary, tmp_path, model):
    """Quantisers store [out, in] where GPT-2's floats are [in, out]."""
    pack, config = gptq(4, 32, True)
    source, plain = made_up(model, tmp_path, pack, config, "returned")
    out = tmp_path / "out"
    run(binary, "convert", source, "--format", "safetensors", "--type", "f32", "-o", out, "-q")
    found, want = packing.load(out / "model.safetensors"), packing.load(plain / "model.safetensors")
    assert set(found) <= set(want)
    for name, (dtype, numbers) in found.items():
        assert dtype == "F32" and np.array_equal(numbers, floats(*want[name])), name


@pytest.mark.parametrize("sort", ["--sym", "--asym"])
@pytest.mark.parametrize(("format", "bits", "group"), [
    ("gptq", 4, 32), ("gptq", 4, 128), ("gptq", 8, 64), ("awq", 4, 64), ("compressed-tensors", 4, 128),
    ("compressed-tensors", 8, 32)])
def test_exports_unpack_to_what_we_read(binary, tmp_path, format, bits, group, sort):
    """The NumPy decoders find in an export what our own reader finds, and that is near what was exported."""
    out, source = tmp_path / "out", packing.MODELS / "tiny-llama3"
    run(binary, "convert", source, "--format", format, "--bits", bits, "--group-size", group, sort, "-o", out, "-q")
    tensors = packing.load(out / "model.safetensors")
    original = packing.load(source / "model.safetensors")
    decoded = {}
    for stem in packing.linears("tiny-llama3"):
        if format == "awq":
            decoded[stem] = packing.decode_awq(tensors, stem)
        elif format == "gptq":
            decoded[stem] = packing.decode_gptq(tensors, stem, bits, v2=sort == "--asym")
        else:
            decoded[stem] = packing.decode_compressed(tensors, stem, bits)
        float_weights = floats(*original[stem + ".weight"])
        # Four bits leave about a tenth of a normal weight's spread, eight bits under a hundredth.
        spread = np.sqrt(np.mean((decoded[stem] - float_weights) ** 2) / np.mean(float_weights ** 2))
        assert spread < (0.25 if bits == 4 else 0.02), (stem, spread)
    plain = packing.plain(out, tensors, decoded, tmp_path)
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    run(binary, "convert", out, "--type", "f32", "-o", ours, "-q")
    run(binary, "convert", plain, "--type", "f32", "-o", theirs, "-q")
    found, want = values(ours), values(theirs)
    assert found.keys() == want.keys()
    for name in found:
        assert np.array_equal(found[name][1], want[name][1]), name


Q = "model.layers.0.self_attn.q_proj"


def without(suffix):
    return lambda tensors, config: tensors.pop(Q + suffix)


def replaced(suffix, dtype, array):
    return lambda tensors, config: tensors.update({Q + suffix: (dtype, np.array(array))})


def stated(group, key, value):
    def change(tensors, config):
        at = config["config_groups"]["group_0"] if group else config
        (at["weights"] if group == "weights" else at)[key] = value
    return change


BROKEN = {
    "ct-scale": ("ct-4-sym", without(".weight_scale"), ["q_proj.weight_scale", "missing"]),
    "ct-shape": ("ct-4-sym", without(".weight_shape"), ["q_proj.weight_shape", "missing"]),
    "ct-shape-wrong": ("ct-4-sym", replaced(".weight_shape", "I64", [256, 512]), ["q_proj.weight_packed", "[256, 64]"]),
    "ct-shape-negative": ("ct-4-sym", replaced(".weight_shape", "I64", [256, -1]), ["q_proj.weight_shape", "-1"]),
    "ct-bits": ("ct-4-sym", stated("weights", "num_bits", 5), ["weight_packed", "5 bits"]),
    "ct-group": ("ct-4-sym", stated("weights", "group_size", 48), ["weight_packed", "48"]),
    "ct-strategy": ("ct-4-sym", stated("weights", "strategy", "token"), ["strategy", "token"]),
    "ct-format": ("ct-4-sym", stated(None, "format", "nvfp4-pack-quantized"), ["format", "nvfp4", "pack-quantized"]),
    "ct-sparse": ("ct-4-sym", stated(None, "sparsity_config", {"format": "sparse-24-bitmask"}), ["sparse-24-bitmask"]),
    "ct-zeros": ("ct-4-asym", replaced(".weight_zero_point", "I32", np.zeros((31, 4))), ["q_proj.weight_zero_point", "[31, 4]"]),
    "ct-order": ("ct-4-act-order", replaced(".weight_g_idx", "I32", [4] * 256), ["q_proj.weight_g_idx", "group 4 of 4"]),
    "fp8-scale": ("fp8-tensor", without(".weight_scale"), ["q_proj.weight_scale", "missing"]),
    "fp8-block": ("fp8-tensor", replaced(".weight_scale", "F32", np.ones((2, 2))), ["q_proj.weight_scale", "weight_block_size"]),
    "nf4-state": ("nf4", without(".weight.quant_state.bitsandbytes__nf4"), ["q_proj.weight.quant_state", "missing"]),
    "nf4-json": ("nf4", replaced(".weight.quant_state.bitsandbytes__nf4", "U8", [123]), ["quant_state", "JSON"]),
    "nf4-scales": ("nf4", replaced(".weight.absmax", "F32", [1.0]), ["q_proj.weight.absmax", "[1]", "[1024]"]),
    "int8-scales": ("int8", without(".SCB"), ["q_proj.SCB", "missing"]),
    "int8-order": ("int8", replaced(".weight_format", "U8", np.array(1)), ["q_proj.weight_format", "rows"]),
}


@pytest.mark.parametrize("label", BROKEN)
def test_broken(binary, tmp_path, label):
    case, change, mentions = BROKEN[label]
    model, (pack, config), *_ = (CASES | ACT_ORDER)[case]
    source, _ = made_up(model, tmp_path, pack, json.loads(json.dumps(config)), case)
    stated = json.loads((source / "config.json").read_text())
    tensors = dict(packing.load(source / "model.safetensors"))
    change(tensors, stated["quantization_config"])
    packing.save(source / "model.safetensors", tensors)
    (source / "config.json").write_text(json.dumps(stated))
    done = subprocess.run([binary, "convert", source, "-o", tmp_path / "out.gguf"], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    for words in mentions:
        assert words in done.stderr, done.stderr
