"""What all tasks on texts share: from a text to a row of tokens, and the networks that read such rows.

An encoded row is int32 [max_tokens], WordPiece ids padded with zeros: the same for every rung of a ladder, so all of
them share one queue. The tokeniser travels with the dataset and the bundle, so that a replica needs neither the
encoder's package nor torch. Knows no labels and no HTTP; what a text means is a subclass's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import ConfigError, DataError, NotFoundError
from tasks import pretrained, wording
from tasks.task import Asked, Encoding, Rejected, Task, TensorSpec

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from cluster.config import Train
    from tasks import encoder

CLS, SEP, UNKNOWN, FIRST_WORD, VOCABULARY = 101, 102, 100, 999, 30522  # ids; no torch to know them by
JSON = "application/json"


class Text(Task):
    """A subclass says what is learned: `labels` of the encoding are its classes where it says nothing else."""

    trims = True
    int8 = "dynamic"
    student_share = 4.0

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.settings = experiment.text

    # From a text to a row

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """As it came with the dataset; in preprocessing, before there is one, that of the encoder's package."""
        return _tokenizer(self._vocabulary, self.settings.max_tokens)

    @cached_property
    def _vocabulary(self) -> bytes:
        try:
            return self.files(pretrained.TOKENIZER)
        except NotFoundError:
            return pretrained.read(pretrained.TOKENIZER)

    def gather(self) -> dict[str, bytes]:
        return {pretrained.TOKENIZER: pretrained.read(pretrained.TOKENIZER)}

    def row_shape(self, values: Iterable[bytes | np.ndarray]) -> tuple[int, ...]:  # noqa: ARG002
        return (self.settings.max_tokens,)

    def clean(self, value: bytes | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One text, or a JSON object of several columns, as int32 [max_tokens].

        Raises:
            Rejected: `empty`, `too_long`, `bad_encoding`, `not_a_text`, or `no_known_word` for one without any word
                or character of the vocabulary.
        """
        assert isinstance(value, bytes)
        source = self.experiment.data.source
        columns = getattr(source, "input", None)
        text = self.text(value, JSON if isinstance(columns, list) else "text/plain")
        return self.row(text, shape[0])[0]

    def text(self, body: bytes, content_type: str) -> str:
        """A body as one plain text. Raises Rejected as `clean` does."""
        most = self.settings.max_chars
        if content_type != JSON:
            return wording.plain(wording.decoded(body, most), most)
        if len(body) > 16 * most:  # \\u00e9 takes six bytes, and there are names and brackets
            raise Rejected("too_long", f"{len(body)} bytes are over {most} characters")
        return wording.plain(wording.from_json(body, self.fields), most)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names under which a JSON object has the text."""
        columns = getattr(self.experiment.data.source, "input", None)
        return ("text", *([columns] if isinstance(columns, str) else columns or ()))

    def row(self, text: str, max_tokens: int) -> tuple[np.ndarray, bool]:
        """int32 [max_tokens] of a plain text, and whether it was longer than that. Raises Rejected `no_known_word`."""
        encoded = self.tokenizer.encode(text)
        row = np.zeros(max_tokens, np.int32)
        row[: len(encoded.ids)] = encoded.ids
        if not ((row >= FIRST_WORD) & (row != UNKNOWN)).any():
            raise Rejected("no_known_word", "none of its words or characters is in the vocabulary")
        return row, bool(encoded.overflowing)

    def rows(self, texts: Sequence[str], max_tokens: int | None = None) -> np.ndarray:
        """int32 [n, max_tokens] of plain texts, by default as long as rows are, also of those without a known word."""
        most = max_tokens or self.settings.max_tokens
        rows = np.zeros((len(texts), most), np.int32)
        for row, encoded in zip(rows, _tokenizer(self._vocabulary, most).encode_batch_fast(list(texts)), strict=True):
            row[: len(encoded.ids)] = encoded.ids
        return rows

    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """How many rows have how many tokens."""
        lengths = np.bincount((rows != 0).sum(axis=1), minlength=rows.shape[1] + 1)
        return {"lengths": lengths.tolist()}

    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Mean tokens of a row, and the share of those that fill it, most of which were cut. Raises DataError."""
        lengths = np.sum([part["lengths"] for part in partials], axis=0) if partials else np.zeros(1, np.int64)
        num_rows = int(lengths.sum())
        if num_rows == 0:
            raise DataError("data.source", self.experiment.data.source.kind, "has no training rows", "add texts")
        return {
            "tokens": float((lengths * np.arange(len(lengths))).sum() / num_rows),
            "full": float(lengths[-1] / num_rows),
        }

    # Training

    def network(self, encoding: Encoding) -> torch.nn.Module:
        """The encoder with a head of one output for each label."""
        from tasks import encoder

        is_frozen, body = self.settings.encoder == "frozen", self.body()
        sizes = len(encoding.labels), encoder.HIDDEN if is_frozen else 0, self.experiment.model.dropout, body.width
        heads = [encoder.Head(*sizes) for _ in range(encoder.MEMBERS if is_frozen else 1)]
        return encoder.TextNetwork(body, encoder.Heads(heads) if is_frozen else heads[0])

    def body(self) -> encoder.Encoder:
        """The pretrained encoder; a head on one that is not trained also sees what it knew half way and before."""
        from tasks import encoder

        if self.settings.encoder == "frozen":
            return encoder.Depths(self.settings.layers).requires_grad_(False)
        body = encoder.Encoder(self.settings.layers)
        body.words.requires_grad_(False)  # half of all weights are words, most of them too rare to learn
        return body

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:
        """A table of word vectors with a hidden layer, and hashed n-grams without one."""
        from tasks import students

        num_outputs = len(encoding.labels)
        return {"static-student": students.Static(num_outputs), "ngram-student": students.Ngrams(num_outputs)}

    def frozen(self, network: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module] | None:
        if self.settings.encoder != "frozen":
            return None
        return network.body, network.head  # type: ignore[return-value]

    def parameter_groups(self, network: torch.nn.Module, recipe: Train) -> list[dict[str, Any]]:
        """The head at `train.learning_rate`, the encoder at its own, much lower rate: it knows most already."""
        if self.settings.encoder == "frozen":
            return super().parameter_groups(network, recipe)
        body = [parameter for parameter in network.body.parameters() if parameter.requires_grad]  # type: ignore[union-attr]
        return [
            {"params": body, "lr": self.settings.encoder_learning_rate},
            {"params": list(network.head.parameters()), "lr": recipe.learning_rate},  # type: ignore[union-attr]
        ]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.cross_entropy(logits.float(), targets)

    def example(self, encoding: Encoding, n: int) -> np.ndarray:
        """Random words, as many as there can be in the first row and fewer in the others."""
        generator, length = np.random.default_rng(0), encoding.shape[0]
        rows = np.zeros((n, length), np.int32)
        for i, row in enumerate(rows):
            num = max(3, length * (n - i) // n)
            row[:num] = generator.integers(FIRST_WORD, VOCABULARY, num)
            row[0], row[num - 1] = CLS, SEP
        return rows

    # Serving

    def open(self) -> None:
        assert self.tokenizer is not None

    def input_spec(self, encoding: Encoding) -> TensorSpec:  # noqa: ARG002
        return TensorSpec("text", "BYTES", (-1, 1))

    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray | Asked:
        """A text, or JSON: a text, or an object with `text` or the columns the data has.

        The row's detail is `{"cut": whether the text was longer than the model reads}`. Raises Rejected as `clean`.
        """
        row, is_cut = self.row(self.text(body, content_type), encoding.shape[0])
        return Asked(row, {"cut": True}) if is_cut else row

    def media_types(self) -> tuple[str, ...]:
        return "text/plain", JSON

    def sample(self, row: np.ndarray, encoding: Encoding) -> tuple[str, bytes]:  # noqa: ARG002
        """The row's tokens as a text: lower case, and nearly the one it was."""
        return "sample.txt", self.tokenizer.decode(row[row != 0].tolist()).encode()


@lru_cache(maxsize=8)
def _tokenizer(data: bytes, max_tokens: int) -> Tokenizer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a batch is small, and the cores are others' too
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("task", "text", "needs the package tokenizers", "pip install '.[text]'") from error
    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
