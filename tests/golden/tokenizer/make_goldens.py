"""Writes NAME.json for each vocabulary: the ids that `tokenizers` or `sentencepiece` give for the texts of strings.json.

Both programs are built anew from the tokens, merges and scores in a GGUF file, with the pre-tokenizer that the model's own
tokenizer.json has, so that no code is shared with what is tested. "encoded" holds, for each text, its ids or, where these
are many, {"count": n, "fnv1a64": hex} over the ids as little-endian int32. "decoded" holds {"ids", "text"} with control
tokens spelled out.

usage: python make_goldens.py MODELS_FOLDER [NAME...]     (needs: tokenizers sentencepiece gguf)
"""
import base64
import json
import pathlib
import random
import struct
import sys

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Letters of the scripts that have two cases.
DEEPSEEK_LETTERS = (r"\s?["
                    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}"
                    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}"
                    r"\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}"
                    r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}"
                    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}"
                    r"\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
                    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}"
                    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}"
                    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}"
                    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}"
                    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
                    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}"
                    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}"
                    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}"
                    r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}"
                    r"\x{1E900}-\x{1E943}"
                    r"]+")
CJK = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def digits(individual):
    return pre_tokenizers.Digits(individual_digits=individual)


# name: (file, normalizer, pre-tokenizers, whole words are taken)
BPE = {
    "smollm2": ("SmolLM2-135M-Instruct.Q4_1.gguf", None, [digits(True), byte_level(True)], False),
    "gpt-2": ("vocabularies/ggml-vocab-gpt-2.gguf", None, [byte_level(True)], False),
    "starcoder": ("vocabularies/ggml-vocab-starcoder.gguf", None, [digits(True), byte_level(True)], False),
    "refact": ("vocabularies/ggml-vocab-refact.gguf", None, [digits(True), byte_level(True)], False),
    "mpt": ("vocabularies/ggml-vocab-mpt.gguf", normalizers.NFC(), [byte_level(True)], False),
    "command-r": ("vocabularies/ggml-vocab-command-r.gguf", normalizers.NFC(), [digits(True), byte_level(True)], False),
    "falcon": ("vocabularies/ggml-vocab-falcon.gguf", None,
               [pre_tokenizers.Punctuation("contiguous"), byte_level(True), digits(False), split("[0-9][0-9][0-9]")], False),
    "llama-bpe": ("vocabularies/ggml-vocab-llama-bpe.gguf", None, [split(LLAMA3), byte_level(False)], True),
    "qwen2": ("vocabularies/ggml-vocab-qwen2.gguf", normalizers.NFC(), [split(QWEN2), byte_level(False)], False),
    "deepseek-llm": ("vocabularies/ggml-vocab-deepseek-llm.gguf", None,
                     [split("[\r\n]"), split(DEEPSEEK_LETTERS), split(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"), split(r"\s+$"), split(CJK),
                      digits(True), byte_level(False)], False),
    "deepseek-coder": ("vocabularies/ggml-vocab-deepseek-coder.gguf", None,
                       [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK), digits(True),
                        byte_level(False)], False),
}
SPM = {
    "gemma3": ("gemma-3-270m-q4_k_m.gguf", False),
    "llama-spm": ("vocabularies/ggml-vocab-llama-spm.gguf", True),
}


class Vocabulary:
    def __init__(self, path):
        fields = GGUFReader(path).fields
        get = lambda key: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else None
        self.tokens, self.types, self.scores, self.merges = map(get, ("tokens", "token_type", "scores", "merges"))
        self.control = [t for t, y in zip(self.tokens, self.types) if y in (CONTROL, UNKNOWN)]
        self.user_defined = [t for t, y in zip(self.tokens, self.types) if y == USER_DEFINED]


def bpe(vocabulary, normalizer, steps, whole_words, special):
    merges = [tuple(m[:i] + "\0" + m[i + 1:] for i in [m.find(" ", 1)])[0].split("\0") for m in vocabulary.merges]
    model = models.BPE({t: i for i, t in enumerate(vocabulary.tokens)}, [tuple(m) for m in merges], ignore_merges=whole_words)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in vocabulary.user_defined])
    if special:
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in vocabulary.control])
    return tokenizer


def sentence_piece(vocabulary, add_space_prefix):
    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types):
        piece = model.pieces.add()
        piece.piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        piece.score = score
        # SentencePiece wants exactly one unknown piece.
        piece.type = UNKNOWN if token == "<unk>" else CONTROL if kind == UNKNOWN else kind
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = add_space_prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def spm_encode(processor, vocabulary, text, special):
    """SentencePiece itself never takes control tokens from text: they are cut out before."""
    if not special:
        return processor.encode(text)
    ids = []
    while text:
        found = [(text.find(t), -len(t), t) for t in vocabulary.control if t and t in text]
        at, _, token = min(found) if found else (len(text), 0, "")
        ids += processor.encode(text[:at])
        if token:
            ids.append(vocabulary.tokens.index(token))
        text = text[at + len(token):]
    return ids


def texts():
    for entry in json.loads((HERE / "strings.json").read_text()):
        text = entry.get("text")
        if text is None:
            text = base64.b64decode(entry["base64"]).decode("utf-8", errors="replace")
        yield text * entry.get("repeat", 1), entry.get("special", False)


def short(ids):
    if len(ids) <= 200:
        return ids
    digest = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return {"count": len(ids), "fnv1a64": f"{digest:016x}"}


def write(name, encoded, decoded):
    lines = ["{", '"encoded": [', ",\n".join(json.dumps(e, separators=(",", ":")) for e in encoded), "],",
             '"decoded": [', ",\n".join(json.dumps(d, separators=(",", ":")) for d in decoded), "]", "}"]
    (HERE / f"{name}.json").write_text("\n".join(lines) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    chosen = sys.argv[2:] or list(BPE) + list(SPM)
    for name in chosen:
        random.seed(name)
        if name in BPE:
            file, *recipe = BPE[name]
            vocabulary = Vocabulary(folder / file)
            plain, special = bpe(vocabulary, *recipe, special=False), bpe(vocabulary, *recipe, special=True)
            encoded = [(special if s else plain).encode(t).ids for t, s in texts()]
            # Random ids: most are cut inside characters.
            samples = [[random.randrange(len(vocabulary.tokens)) for _ in range(12)] for _ in range(40)]
            decoded = [{"ids": ids, "text": special.decode(ids, skip_special_tokens=False)} for ids in samples]
        else:
            file, add_space_prefix = SPM[name]
            vocabulary = Vocabulary(folder / file)
            processor = sentence_piece(vocabulary, add_space_prefix)
            encoded = [spm_encode(processor, vocabulary, t, s and not add_space_prefix) for t, s in texts()]
            normal = [i for i, y in enumerate(vocabulary.types) if y in (NORMAL, USER_DEFINED)]
            samples = [random.choices(normal, k=12) for _ in range(20)] + [e for e in encoded if 2 < len(e) < 40][::8]
            decoded = [{"ids": ids, "text": processor.decode(ids)} for ids in samples]
        write(name, [short(e) for e in encoded], decoded)
        print(name, len(encoded), len(decoded))


if __name__ == "__main__":
    main()
