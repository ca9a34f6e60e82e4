"""The `gguf` package reads our files: what is written, how it decodes, and llama.cpp's very bytes."""

import hashlib
import shutil

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, LlamaFileType
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file

from fixtures import BLOCKS, MIXTURES, MODELS, NAMES, PURE, block_hashes, dump, mixture

HASHES = block_hashes()
TYPE_NAMES = {
    GGUFValueType.UINT8: "u8", GGUFValueType.INT8: "i8", GGUFValueType.UINT16: "u16",
    GGUFValueType.INT16: "i16", GGUFValueType.UINT32: "u32", GGUFValueType.INT32: "i32",
    GGUFValueType.UINT64: "u64", GGUFValueType.INT64: "i64", GGUFValueType.FLOAT32: "f32",
    GGUFValueType.FLOAT64: "f64", GGUFValueType.BOOL: "bool", GGUFValueType.STRING: "string",
}


def metadata(reader):
    """{key: (type, value)}, without the header fields the reader adds under GGUF.*"""
    found = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        kind = TYPE_NAMES[field.types[-1]]
        if field.types[0] == GGUFValueType.ARRAY:
            kind = f"array[{kind}]"
        found[key] = (kind, field.contents())
    return found


def tensors(reader):
    """{name: (type, shape in ggml order, sha256 of the bytes)}"""
    return {
        t.name: (t.tensor_type.name, t.shape.tolist(), hashlib.sha256(t.data.tobytes()).hexdigest())
        for t in reader.tensors
    }


@pytest.mark.parametrize("kind", ("f32", "bf16"))
@pytest.mark.parametrize("name", NAMES)
class TestAgainstConverter:
    """llama.cpp's own converter on the same folder."""

    def test_metadata(self, convert, name, kind):
        want = {e["key"]: (e["type"], e["value"]) for e in dump(name, kind)["kv"]}
        found = metadata(GGUFReader(convert(MODELS / name, kind)))
        assert found.keys() == want.keys()
        for key in want:
            assert found[key] == want[key], key

    def test_tensors(self, convert, name, kind):
        want = {t["name"]: (t["type"], t["shape"], t["sha256"]) for t in dump(name, kind)["tensors"]}
        found = tensors(GGUFReader(convert(MODELS / name, kind)))
        assert found.keys() == want.keys()
        for tensor in want:
            assert found[tensor] == want[tensor], tensor


def test_float64_weights_narrow_exactly(convert, tmp_path_factory):
    """A float32 checkpoint widened to float64 must give the float32 file again."""
    folder = tmp_path_factory.mktemp("float64") / "stories260k"
    shutil.copytree(MODELS / "stories260k", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.astype(np.float64) for k, v in weights.items()}, folder / "model.safetensors")
    want = {t["name"]: t["sha256"] for t in dump("stories260k", "f32")["tensors"]}
    found = tensors(GGUFReader(convert(folder, "f32")))
    assert {name: digest for name, (_, _, digest) in found.items()} == want


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", NAMES)
class TestQuantised:
    def test_bytes_equal_llama_quantize(self, convert, name, kind):
        want = {k: tuple(v) for k, v in HASHES[name][kind.upper()].items()}
        found = {k: (t, h) for k, (t, _, h) in tensors(GGUFReader(convert(MODELS / name, kind, *PURE))).items()}
        assert found.keys() == want.keys()
        for tensor in want:
            assert found[tensor] == want[tensor], tensor

    def test_decodes_as_we_do(self, convert, name, kind):
        """Bit for bit, so that no reader sees other weights than our own reports speak of."""
        packed = convert(MODELS / name, kind, *PURE)
        ours = convert(packed, "f32", "--allow-requantize")
        decoded = {t.name: t for t in GGUFReader(ours).tensors}
        reader = GGUFReader(packed)
        assert decoded.keys() == {t.name for t in reader.tensors}
        for t in reader.tensors:
            theirs = dequantize(t.data, t.tensor_type).astype(np.float32, copy=False)
            mine = decoded[t.name]
            assert mine.tensor_type.name == "F32", t.name
            assert mine.data.shape == theirs.shape, t.name
            same = mine.data.view(np.uint32) == theirs.view(np.uint32)
            assert same.all(), f"{t.name}: {np.count_nonzero(~same)} of {same.size} values differ"


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("name", NAMES + ("bookworm-8m",))
def test_mixtures_are_those_of_llama_quantize(convert, name, kind):
    """Whole files: types, size, and the number by which readers know the mixture."""
    others, usual, floats, size = mixture(name, kind)
    path = convert(MODELS / name, kind.lower())
    reader = GGUFReader(path)
    found = {t.name: t.tensor_type.name for t in reader.tensors}
    for tensor, ours in found.items():
        assert ours in (others.get(tensor, usual), "F32"), tensor
    assert others.keys() <= found.keys()
    assert sum(ours == "F32" for ours in found.values()) == floats
    assert reader.fields["general.file_type"].contents() == LlamaFileType[f"MOSTLY_{kind}"].value
    if size is not None:
        assert path.stat().st_size == size
