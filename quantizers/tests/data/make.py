"""Makes the known answers in this folder: ggml's own bytes and decoded values for a few blocks of weights.

    python make.py PATH/TO/libggml-base.so

The library comes with any build of llama.cpp (or the Python package llama-cpp-python). Uses the standard library
only. The files are committed; run this again only to add a type or an input, and name the version of llama.cpp in the
commit. Last made with llama.cpp's ggml 0.25.3.

    types.txt     id, name, weights per block, bytes per block: every type that ggml knows
    input.f32     weights to encode, whole blocks of 32 and of 256
    TYPE.bin      what ggml's reference encoder makes of input.f32: for the half-precision floats, and for every type that
                  has a file of its name in src/formats
    TYPE.f32      what ggml's decoder makes of TYPE.bin, then of random.bin
    random.bin    arbitrary bytes, cut for each type to whole blocks: decoders see files that others wrote
"""

import ctypes
import pathlib
import random
import struct
import sys

HERE = pathlib.Path(__file__).parent
FORMATS = HERE.parents[1] / "src" / "formats"
BLOCK = 32
# Encoder and decoder of the float types; those of block types follow from the name.
FLOATS = {
    "f16": ("ggml_fp32_to_fp16_row", "ggml_fp16_to_fp32_row"),
    "bf16": ("ggml_fp32_to_bf16_row_ref", "ggml_bf16_to_fp32_row"),
}


def inputs():
    """Blocks of 32 weights, ordinary ones and every trap known."""
    rng = random.Random(2)
    bf16 = lambda x: struct.unpack("<f", b"\0\0" + struct.pack("<f", x)[2:])[0]
    yield [rng.gauss(0, 0.02) for _ in range(BLOCK)]
    yield [bf16(rng.gauss(0, 0.05)) for _ in range(BLOCK)]
    yield [rng.gauss(0, 1) / max(rng.random(), 1e-3) ** 2 for _ in range(BLOCK)]  # heavy tails
    yield [abs(rng.gauss(0, 1)) for _ in range(BLOCK)]  # one sign
    yield [-1 - rng.random() for _ in range(BLOCK)]
    yield [0.0] * BLOCK
    yield [-0.0] * BLOCK
    yield [0.0, -0.0] * (BLOCK // 2)
    yield [-0.0, 0.0] * (BLOCK // 2)
    yield [-0.0, 0.5, 0.0, 0.25] * (BLOCK // 4)  # the smallest is a zero: the first one's sign
    yield [0.375] * BLOCK
    yield [-0.375] * BLOCK
    yield [0.0] * 5 + [1.0, -1.0] + [0.0] * 25  # equal magnitudes: the first decides the sign
    yield [0.0] * 5 + [-1.0, 1.0] + [0.0] * 25
    yield [i - 127.0 for i in range(0, 256, 8)]
    yield [(i - 16) * 0.5 for i in range(BLOCK - 1)] + [127.0]  # halves in Q8_0
    yield [i - 8.5 for i in range(BLOCK // 2)] + [8.5 - i for i in range(BLOCK // 2)]  # halves in four bits
    yield [65504.0, -65504.0] + [rng.uniform(-65504, 65504) for _ in range(BLOCK - 2)]
    yield [rng.gauss(0, 1e-4) for _ in range(BLOCK)]  # subnormal half-precision scales
    yield [rng.gauss(0, 1e-7) for _ in range(BLOCK)]  # scales that round to zero
    yield [1e-38, -1e-38] * (BLOCK // 2)
    yield [rng.gauss(0, 1e-40) for _ in range(BLOCK)]  # subnormals
    yield [1e-45, 0.0, -1e-45, 3e-39] * (BLOCK // 4)
    yield [1e-45] + [1.0] * (BLOCK - 1)


def main(path):
    ggml = ctypes.CDLL(path)
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t

    # Removed types keep their id and have no block size.
    rows, types = [], {}
    for i in range(43):
        if not ggml.ggml_blck_size(i):
            continue
        name = ggml.ggml_type_name(i).decode()
        rows.append(f"{i} {name} {ggml.ggml_blck_size(i)} {ggml.ggml_type_size(i)}")
        functions = FLOATS.get(name, (f"quantize_row_{name}_ref", f"dequantize_row_{name}"))
        if name in FLOATS or (FORMATS / f"{name.lower()}.rs").is_file():
            types[name.lower()] = (i, *functions)
    (HERE / "types.txt").write_text("\n".join(rows) + "\n")

    weights = [x for block in inputs() for x in block]
    n = len(weights)
    x = (ctypes.c_float * n)(*weights)
    (HERE / "input.f32").write_bytes(bytes(x))
    noise = random.Random(3).randbytes(1056)
    (HERE / "random.bin").write_bytes(noise)

    for name, (kind, encode, decode) in types.items():
        block, size = ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)
        out = (ctypes.c_char * (n // block * size))()
        getattr(ggml, encode)(x, out, ctypes.c_int64(n))
        (HERE / f"{name}.bin").write_bytes(bytes(out))
        stored = bytes(out) + noise[: len(noise) // size * size]
        count = len(stored) // size * block
        y = (ctypes.c_float * count)()
        getattr(ggml, decode)(stored, y, ctypes.c_int64(count))
        (HERE / f"{name}.f32").write_bytes(bytes(y))


if __name__ == "__main__":
    main(sys.argv[1])
