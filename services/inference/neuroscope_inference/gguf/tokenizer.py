"""tokenizer.json and tokenizer_config.json from a GGUF file's metadata.

llama.cpp keeps two kinds: `gpt2`, byte-level BPE with its merges, whose splitting rule has a name
(`tokenizer.ggml.pre`), and `llama`, SentencePiece's BPE with scores. Other kinds are refused by the name of the key.
Splitting rules are those of llama.cpp's `llama-vocab.cpp`, which takes them from the models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from neuroscope.errors import ModelCorruptError, ModelUnsupportedError
from neuroscope_inference.gguf.file import GgufFile

_PREFIX = "tokenizer.ggml."
_KIND, _TOKENS, _MERGES, _SCORES, _TYPES = (
    f"{_PREFIX}{name}" for name in ("model", "tokens", "merges", "scores", "token_type")
)
_SPLIT = f"{_PREFIX}pre"
_TEMPLATE = "tokenizer.chat_template"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_SPACE = "▁"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split_by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _split_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


_SPLITTERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": lambda: _split_by_pattern(_GPT2),
    "gpt2": lambda: _split_by_pattern(_GPT2),
    "llama-bpe": lambda: _split_by_pattern(_LLAMA3),
    "llama3": lambda: _split_by_pattern(_LLAMA3),
    "smaug-bpe": lambda: _split_by_pattern(_LLAMA3),
    "qwen2": lambda: _split_by_pattern(_QWEN2),
    "smollm": _split_digits,
    "starcoder": _split_digits,
    "refact": _split_digits,
    "command-r": _split_digits,
}
_ADDS_BOS = frozenset({"llama-bpe", "llama3"})
"""Rules whose tokenizers begin a text with BOS where add_bos_token does not say."""


class GgufTokenizer:
    """The tokenizer of a GGUF file.

    Args:
        file: the file.

    Attributes:
        tokenizer: as the library tokenizers has it.
        config: tokenizer_config.json.

    Raises:
        ModelCorruptError: a key is missing or of the wrong form; names it.
        ModelUnsupportedError: the kind or its splitting rule is not read; names the key.
    """

    def __init__(self, file: GgufFile) -> None:
        self._path = file.path
        self._metadata = file.metadata
        self._tokens = self._list(_TOKENS, str)
        types = self._metadata.get(_TYPES)
        self._types: list[int] = types if isinstance(types, list) and len(types) == len(self._tokens) else []
        match self._metadata.get(_KIND):
            case "gpt2":
                self.tokenizer = self._byte_level()
            case "llama":
                self.tokenizer = self._sentence_piece()
            case kind:
                reason = "is missing" if kind is None else f"is {kind!r}, which is not read; gpt2 and llama are"
                raise ModelUnsupportedError(f"{self._path}: {_KIND} {reason}", field="model_path")
        self._add_tokens()
        self._add_bos()
        self.config = self._config()

    def _byte_level(self) -> Tokenizer:
        rule = self._metadata.get(_SPLIT, "gpt-2")
        rule = "gpt-2" if rule == "default" else rule
        if rule not in _SPLITTERS:
            raise ModelUnsupportedError(
                f"{self._path}: {_SPLIT} is {rule!r}, which is not read; rules that are: {', '.join(_SPLITTERS)}",
                field="model_path",
            )
        merges = [tuple(merge.split(" ", 1)) for merge in self._list(_MERGES, str)]
        if any(len(merge) != 2 for merge in merges):
            raise ModelCorruptError(f"{self._path}: an entry of {_MERGES} is not two tokens", field="model_path")
        tokenizer = Tokenizer(self._bpe(merges))
        if rule == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = _SPLITTERS[rule]()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _sentence_piece(self) -> Tokenizer:
        scores = self._list(_SCORES, float)
        unknown = self._id("unk")
        pieces = [index for index in range(len(self._tokens)) if self._type(index) not in (_CONTROL, _BYTE)]
        merges = _merges(self._tokens, pieces, scores)
        tokenizer = Tokenizer(
            self._bpe(
                merges,
                unk_token=None if unknown is None else self._tokens[unknown],
                fuse_unk=True,
                byte_fallback=any(self._type(index) == _BYTE for index in range(len(self._tokens))),
            )
        )
        adds_space = bool(self._metadata.get(f"{_PREFIX}add_space_prefix", True))
        replace = normalizers.Replace(" ", _SPACE)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace]) if adds_space else replace
        steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if adds_space else steps)
        return tokenizer

    def _bpe(self, merges: list[tuple[str, ...]], **options: Any) -> models.BPE:
        vocabulary = {token: index for index, token in enumerate(self._tokens)}
        if len(vocabulary) != len(self._tokens):
            raise ModelCorruptError(f"{self._path}: {_TOKENS} has a token twice", field="model_path")
        try:
            return models.BPE(vocab=vocabulary, merges=merges, **options)  # type: ignore[arg-type]
        except Exception as error:  # tokenizers raises no class of its own
            raise ModelCorruptError(
                f"{self._path}: {_MERGES} do not fit {_TOKENS}: {error}", field="model_path"
            ) from error

    def _add_tokens(self) -> None:
        """Control tokens and those of the user, which are found in a text before it is split."""
        added = [index for index in range(len(self._types)) if self._type(index) in (_CONTROL, _USER_DEFINED)]
        added += [index for name in ("bos", "eos") if (index := self._id(name)) is not None and index not in added]
        for index in sorted(added):
            token = AddedToken(self._tokens[index], normalized=False, special=self._type(index) != _USER_DEFINED)
            (self.tokenizer.add_special_tokens if token.special else self.tokenizer.add_tokens)([token])

    def _add_bos(self) -> None:
        bos = self._id("bos")
        default = self._metadata.get(_KIND) == "llama" or self._metadata.get(_SPLIT) in _ADDS_BOS
        if bos is not None and self._metadata.get(f"{_PREFIX}add_bos_token", default):
            text = self._tokens[bos]
            self.tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=[(text, bos)]
            )

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for name in _SPECIAL:
            if (index := self._id(name)) is not None:
                config[f"{name}_token"] = self._tokens[index]
        if isinstance(template := self._metadata.get(_TEMPLATE), str):
            config["chat_template"] = template
        return config

    def _id(self, name: str) -> int | None:
        key = f"{_PREFIX}{_SPECIAL[name]}_token_id"
        index = self._metadata.get(key)
        if index is None:
            return None
        if not isinstance(index, int) or not 0 <= index < len(self._tokens):
            raise ModelCorruptError(f"{self._path}: {key} is {index!r}, which is no token", field="model_path")
        return index

    def _type(self, index: int) -> int:
        return self._types[index] if self._types else 1

    def _list(self, key: str, kind: type) -> list[Any]:
        value = self._metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
            what = "has no" if value is None else "has no usable"
            raise ModelCorruptError(f"{self._path} {what} {key}", field="model_path")
        return value


def _merges(tokens: list[str], pieces: list[int], scores: list[float]) -> list[tuple[str, ...]]:
    """The merges that SentencePiece's scores stand for: every pair of pieces that makes a piece, likeliest piece first.

    Of pairs that make the same piece the one whose parts come first in the vocabulary is tried first, as transformers'
    conversion has it.
    """
    known = {tokens[index]: index for index in pieces}
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for index in pieces:
        token = tokens[index]
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                found.append((-scores[index], known[left], known[right], (left, right)))
    return [pair for *_, pair in sorted(found)]
