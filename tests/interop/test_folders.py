"""Tokenizers of odd folders: llama.cpp loads what is made of them, and tokenizes as the reference does.

The reference is the `tokenizers` library where it reads the folder, and for tekken.json byte pair merging by ranks,
written out. Folders are made of the fixtures, under the shapes that people reported.
"""

import base64
import json
import shutil

import llama_cpp
import pytest
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

import llama
from fixtures import MODELS, read_json

TEXTS = ("the sea was high", "  The café\n\nis OPEN.", "héllo wörld 漢字 — 12 345", "don't\tstop, it's  5€!", "")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
              "added_tokens.json")


class Folder:
    """A copy of a fixture, to be changed."""

    def __init__(self, at, name):
        self.at = at / name
        shutil.copytree(MODELS / name, self.at)

    def without(self, *names):
        for name in names:
            (self.at / name).unlink(missing_ok=True)

    def write(self, name, value, mark=""):
        (self.at / name).write_text(mark + json.dumps(value, ensure_ascii=False), encoding="utf-8")

    def edit(self, name, edit):
        value = read_json(self.at / name)
        edit(value)
        self.write(name, value)


@pytest.fixture
def folder(tmp_path):
    return lambda name: Folder(tmp_path, name)


def reference(name, *added):
    """tokenizer.json of a fixture, with the id that a text stands for where another file says it."""
    tokenizer = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def test_slow_byte_level(folder, convert):
    model = folder("tiny-qwen2")
    added = {token["content"]: token["id"] for token in read_json(model.at / "tokenizer.json")["added_tokens"]}
    model.write("added_tokens.json", {**added, "<tool_call>": 630})
    model.without("tokenizer.json")
    model.edit("tokenizer_config.json", lambda config: config.pop("added_tokens_decoder", None))
    vocabulary, expected = llama.Vocabulary(convert(model.at, "f32")), reference("tiny-qwen2")
    for text in (*TEXTS, "<|im_start|>user hi<|im_end|>\n<|endoftext|>"):
        assert vocabulary.ids(text, add_special=False) == expected(text), text
    assert vocabulary.ids("a<tool_call>b", add_special=False) == [*expected("a"), 630, *expected("b")]


def test_byte_level_that_sets_byte_fallback(folder, convert):
    model = folder("tiny-llama-bias")
    model.edit("tokenizer.json", lambda tokenizer: tokenizer["model"].update(byte_fallback=True))
    vocabulary, expected = llama.Vocabulary(convert(model.at, "f32")), reference("tiny-llama-bias")
    for text in TEXTS:
        assert vocabulary.ids(text, add_special=False) == expected(text), text


@pytest.mark.parametrize("model_too", [False, True])
def test_tokens_without_a_row(folder, convert, model_too):
    model = folder("tiny-mistral")
    if not model_too:
        model.without("tokenizer.model")
    pad = {"id": 512, "content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
    model.edit("tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(pad))
    vocabulary, plain = (llama.Vocabulary(convert(at, "f32")) for at in (model.at, MODELS / model.at.name))
    assert vocabulary.model.n_vocab() == 512
    for text in TEXTS:
        assert vocabulary.ids(text, add_special=True) == plain.ids(text, add_special=True), text


def test_marks_before_files(folder, convert):
    model = folder("tiny-qwen2")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        model.write(name, read_json(model.at / name), mark="\ufeff")
    vocabulary, expected = llama.Vocabulary(convert(model.at, "f32")), reference("tiny-qwen2")
    for text in TEXTS:
        assert vocabulary.ids(text, add_special=False) == expected(text), text


def ends(vocabulary):
    inner = llama_cpp.llama_model_get_vocab(vocabulary.model.model)
    return [i for i in range(vocabulary.model.n_vocab()) if llama_cpp.llama_vocab_is_eog(inner, i)]


@pytest.mark.parametrize("listed", [[633], [634, 635], [633, 634, 635]])
def test_further_ends(folder, convert, listed):
    model = folder("tiny-llama3")
    model.write("generation_config.json", {"eos_token_id": listed})
    model.edit("config.json", lambda config: config.update(eos_token_id=listed))
    # 633 is the tokenizer's own, 638 and 639 are <|eom_id|> and <|eot_id|>, which llama.cpp knows by their spelling.
    assert ends(llama.Vocabulary(convert(model.at, "f32"))) == sorted({633, 638, 639, *listed})


@pytest.mark.parametrize("asked", [None, True])
@pytest.mark.parametrize("name", ["tiny-llama3", "stories260k"])
def test_nothing_is_put_around_a_text(folder, convert, name, asked):
    """No post-processor in tokenizer.json: Transformers puts no BOS, whatever tokenizer_config.json asks for."""
    model = folder(name)
    model.edit("tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))
    model.edit("tokenizer_config.json", lambda config: config.update(add_bos_token=asked, add_eos_token=asked))
    vocabulary, expected = llama.Vocabulary(convert(model.at, "f32")), reference(name)
    assert vocabulary.ids(TEXTS[0], add_special=True) == expected(TEXTS[0])


PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
           r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
           r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
MARKS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")


def alphabet():
    """GPT-2's letter of every byte."""
    odd = iter(range(0x100, 0x144))
    plain = {*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)}
    return {chr(byte if byte in plain else next(odd)): byte for byte in range(256)}


def ranks_of(name):
    """Tokens of a byte-level vocabulary as bytes, bytes first, then in their order."""
    letters = alphabet()
    vocabulary = read_json(MODELS / name / "tokenizer.json")["model"]["vocab"]
    spelled = [bytes(letters[c] for c in text) for text, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    return [bytes([byte]) for byte in range(256)] + [token for token in spelled if len(token) > 1]


def merged(word, ranks):
    """Byte pair merging as Mistral's tools do it: the pair whose token has the lowest rank, the first of equals."""
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        pairs = [(ranks[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
        if not pairs:
            break
        at = min(pairs)[1]
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts]


def test_tekken(folder, convert):
    model, count = folder("tiny-llama3"), 8
    model.without(*TOKENIZERS)
    tokens = ranks_of("tiny-llama3")
    model.write("tekken.json", {
        "config": {"pattern": PATTERN, "num_vocab_tokens": len(tokens), "version": "v11",
                   "default_vocab_size": count + len(tokens), "default_num_special_tokens": count},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
                  for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(MARKS)],
    })
    model.edit("config.json", lambda config: config.update(bos_token_id=1, eos_token_id=2))
    model.without("generation_config.json")
    vocabulary = llama.Vocabulary(convert(model.at, "f32"))
    ranks, split = {token: rank for rank, token in enumerate(tokens)}, Split(Regex(PATTERN), "isolated")

    def expected(text):
        words = (word for word, _ in split.pre_tokenize_str(text))
        return [count + rank for word in words for rank in merged(word.encode(), ranks)]

    for text in (*TEXTS, "Hello there, 1234 tokens!", "XMLHttpRequest ABCdef", "a/b//c\n/\n", "   \n  x"):
        assert vocabulary.ids(text, add_special=False) == expected(text), text
    assert vocabulary.ids("[INST]Hello[/INST]", add_special=True) == [1, 3, *expected("Hello"), 4]
    assert 2 in ends(vocabulary)
