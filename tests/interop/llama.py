"""llama.cpp through its Python binding, set up so that only the file decides the numbers."""

import llama_cpp
import numpy as np


def logits(path, ids):
    """[len(ids), vocab] in one batch: float32 KV cache, no flash attention, two threads."""
    model = llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, n_threads=2, n_threads_batch=2, flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False)
    try:
        model.eval(ids)
        return np.array(model.scores[:len(ids)])
    finally:
        model.close()


class Vocabulary:
    """The tokenizer llama.cpp builds from a file's metadata; weights are not loaded."""

    def __init__(self, path):
        self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def ids(self, text, add_special):
        """Special tokens in the text are recognised, as `tokenizers` does by default."""
        return self.model.tokenize(text.encode(), add_bos=add_special, special=True)
