"""Quantised checkpoints, packed and unpacked with NumPy from the descriptions of their formats: independent of the reader.

Integers go through whole bit strings, nothing is shifted word by word; slow and plain.
"""

import json
import lzma
import shutil
import struct

import numpy as np

from fixtures import FIXTURES, MODELS

DTYPES = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "F8_E4M3": np.dtype("u1"),
}


def load(path):
    """{name: (dtype, array)}; BF16 and the eight-bit floats come as unsigned integers."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    found = {}
    for name, info in header.items():
        begin, end = (8 + size + at for at in info["data_offsets"])
        found[name] = (info["dtype"], np.frombuffer(data[begin:end], DTYPES[info["dtype"]]).reshape(info["shape"]))
    return found


def save(path, tensors):
    header, at, parts = {}, 0, []
    for name, (dtype, array) in tensors.items():
        part = np.ascontiguousarray(array).astype(DTYPES[dtype], copy=False).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(part)]}
        at += len(part)
        parts.append(part)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def floats(dtype, array):
    """The numbers of a tensor of floats, as float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def to_bf16(array):
    """Round to nearest even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bits_of(values, bits):
    """[..., n] -> [..., n * bits], the lowest bit of each number first."""
    return (values[..., None] >> np.arange(bits) & 1).reshape(*values.shape[:-1], -1)


def words(values, bits, dense=True):
    """Packs along the last axis into 32-bit words."""
    values = np.asarray(values, np.int64)
    if not dense:
        # Whole fields only: each word's spare high bits stay empty.
        per = 32 // bits
        padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % per)])
        fields = bits_of(padded.reshape(*values.shape[:-1], -1, per), bits)
        string = np.pad(fields, [(0, 0)] * (fields.ndim - 1) + [(0, 32 - fields.shape[-1])])
        string = string.reshape(*values.shape[:-1], -1)
    else:
        string = bits_of(values, bits)
        string = np.pad(string, [(0, 0)] * (string.ndim - 1) + [(0, -string.shape[-1] % 32)])
    string = string.reshape(*string.shape[:-1], -1, 32)
    return (string << np.arange(32)).sum(-1).astype(np.uint32).view(np.int32)


def fields(array, bits, count, dense=True):
    """The reverse of `words`, for `count` numbers."""
    string = bits_of(array.view(np.uint32).astype(np.int64), 32)
    if not dense:
        per = 32 // bits
        string = string.reshape(*array.shape, 32)[..., :per * bits]
    string = string.reshape(*array.shape[:-1], -1)[..., :count * bits]
    return (string.reshape(*string.shape[:-1], count, bits) << np.arange(bits)).sum(-1)


# Column 8c + AWQ_ORDER[i] is in nibble i of word c.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq_words(values):
    """[rows, cols] -> [rows, cols / 8]."""
    eights = values.reshape(values.shape[0], -1, 8)[..., AWQ_ORDER]
    return words(eights, 4).reshape(values.shape[0], -1)


def awq_fields(array, count):
    eights = fields(array, 4, array.shape[1] * 8).reshape(array.shape[0], -1, 8)
    out = np.empty_like(eights)
    out[..., AWQ_ORDER] = eights
    return out.reshape(array.shape[0], -1)[:, :count]


def decode_gptq(tensors, stem, bits, v2=False):
    """[out, in] float32."""
    scales = floats(*tensors[stem + ".scales"])
    groups, outs = scales.shape
    code = fields(tensors[stem + ".qweight"][1].T, bits, tensors[stem + ".qweight"][1].shape[0] * 32 // bits)
    zero = fields(tensors[stem + ".qzeros"][1], bits, outs) + (0 if v2 else 1)
    ins = code.shape[1]
    name = stem + ".g_idx"
    group = tensors[name][1] if name in tensors else np.arange(ins) // (ins // groups)
    return (scales[group].T * (code - zero[group].T).astype(np.float32)).astype(np.float32)


def decode_awq(tensors, stem):
    """[out, in] float32."""
    scales = floats(*tensors[stem + ".scales"])
    groups, outs = scales.shape
    code = awq_fields(tensors[stem + ".qweight"][1], outs)
    zero = awq_fields(tensors[stem + ".qzeros"][1], outs)
    group = np.arange(len(code)) // (len(code) // groups)
    return np.ascontiguousarray((scales[group] * (code - zero[group]).astype(np.float32)).T, np.float32)


def decode_compressed(tensors, stem, bits):
    """[out, in] float32; what compressed-tensors calls pack-quantized."""
    scales = floats(*tensors[stem + ".weight_scale"])
    outs, ins = tensors[stem + ".weight_shape"][1]
    half = 2 ** (bits - 1)
    code = fields(tensors[stem + ".weight_packed"][1], bits, ins) - half
    zero, name = np.zeros(scales.shape, np.int64), stem + ".weight_zero_point"
    if name in tensors:
        zero = fields(tensors[name][1].T, bits, outs).T - half
    group = np.arange(ins) // (ins // scales.shape[1])
    return (scales[:, group] * (code - zero[:, group]).astype(np.float32)).astype(np.float32)


def real(name, folder):
    """A checkpoint that GPTQModel wrote, cut to two layers, with the embeddings that it shares with bookworm-8m. Returns its
    folder and its tensors."""
    source, base = FIXTURES / "quantized" / name, MODELS / "bookworm-8m"
    out = folder / name
    out.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(base / file, out)
    for file in ("config.json", "quantize_config.json"):
        shutil.copy(source / file, out)
    layers = folder / (name + ".safetensors")
    layers.write_bytes(lzma.decompress((source / "layers.safetensors.xz").read_bytes()))
    tensors, shared = load(layers), load(base / "model.safetensors")
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[tensor] = shared[tensor]
    save(out / "model.safetensors", tensors)
    return out, tensors


def plain(source, tensors, decoded, folder):
    """The same model as floats: `decoded` {stem: [out, in]} instead of the codes."""
    out = folder / (source.name + "-plain")
    out.mkdir()
    for file in source.iterdir():
        if file.name not in ("model.safetensors", "config.json", "quantize_config.json"):
            shutil.copy(file, out)
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config))
    part = tuple(stem + "." for stem in decoded)
    rest = {n: t for n, t in tensors.items() if n.endswith(".bias") or not n.startswith(part)}
    rest |= {stem + ".weight": ("F32", w) for stem, w in decoded.items()}
    save(out / "model.safetensors", rest)
    return out


def linears(name):
    """Stems of the matrices in the blocks of a fixture, with their shapes [out, in]."""
    tensors = load(MODELS / name / "model.safetensors")
    turned = name == "tiny-gpt2"
    found = {}
    for tensor, (_, array) in tensors.items():
        if array.ndim == 2 and (".layers." in tensor or ".h." in tensor) and ".gate.weight" not in tensor:
            found[tensor.removesuffix(".weight")] = array.shape[::-1] if turned else array.shape
    return found


def made_up(name, folder, pack, config, label):
    """A fixture whose matrices are codes drawn at random. `pack(rng, outs, ins)` gives ({suffix: (dtype, array)}, weights).
    Returns (folder of the codes, folder of the floats)."""
    rng = np.random.default_rng(sum(label.encode()))
    source = MODELS / name
    out = folder / label
    out.mkdir()
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "merges", "generation", "special", "added", "chat_template")):
            shutil.copy(file, out)
    stated = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(stated | {"quantization_config": config}))
    tensors, decoded = dict(load(source / "model.safetensors")), {}
    for stem, (outs, ins) in linears(name).items():
        parts, weights = pack(rng, outs, ins)
        del tensors[stem + ".weight"]
        tensors |= {stem + suffix: part for suffix, part in parts.items()}
        # GPT-2 stores [in, out]; quantisers do not.
        decoded[stem] = weights.T if name == "tiny-gpt2" else weights
    save(out / "model.safetensors", tensors)
    return out, plain(out, tensors, decoded, folder)
