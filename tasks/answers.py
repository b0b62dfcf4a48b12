"""Answers for people who ask: an intent's text, a passage of the user's documents, or that a person takes over.

The network says which intent a text has, how far it is from all of them, and its vector, by which passages are found.
What follows from that stands in `tasks.dialogue`. Knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import DataError, NotFoundError
from tasks import conversations, dialogue, metrics, passages, replies, retrieval
from tasks.conversations import Conversation
from tasks.dialogue import Heard
from tasks.documents import Place
from tasks.passages import Passage
from tasks.replies import Replies
from tasks.task import Ask, Asked, Encoding, Files, Rejected, TensorSpec
from tasks.text import JSON, Text

if TYPE_CHECKING:
    import torch

WIDTH = 384  # of the encoder's vectors
TEMPLATES = "templates.json"
PASSAGE_TOKENS = 256  # of a passage that are read for its vector
MAX_PASSAGES = 50_000
MARKDOWN = (".md", ".markdown")
MAX_SLOTS = 32  # in one request


@dataclass(frozen=True)
class Question:
    """What a request says beside its encoded row."""

    text: str
    slots: Mapping[str, str]
    conversation: str  # sealed; empty for a new one
    is_cut: bool


@dataclass(frozen=True)
class Prepared:
    replies: Replies
    library: retrieval.Library


class Answers(Text):
    """Outputs are float32 [n, num_labels + 1 + WIDTH]: probabilities of the intents, how far outside all of them the
    text is, above 0 where that is too far to answer, and the text's vector, zeros on rungs that have none.

    The distance is the largest logit, negated (D. Hendrycks et al., *Scaling Out-of-Distribution Detection for
    Real-World Settings*, 2022), less the threshold of its rung.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.own = experiment.answers

    @property
    def outside(self) -> str:
        return self.own.out_of_scope_label

    # The files beside the rows

    def inspect(self) -> object:
        templates, documents = self._templates(), self._documents()
        if templates is not None:
            self._replies(templates)
        states = [
            [[file.name, file.size, file.mtime_ns] for file in place.files()]
            for place in (templates, documents)
            if place
        ]
        return [self.own.model_dump(mode="json"), states]

    def accompany(self, forwards: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, bytes]:
        files = {}
        if (templates := self._templates()) is not None:
            files[TEMPLATES] = json.dumps(self._replies(templates).to_json()).encode()
        if (documents := self._documents()) is not None:
            found = self._passages(documents)
            rows = self.rows([f"{each.heading}. {each.text}" for each in found], PASSAGE_TOKENS)
            files |= retrieval.build(found, rows, forwards, -WIDTH)
        return files

    def _templates(self) -> Place | None:
        given = self.own.templates
        return None if given is None else Place(replies.SETTING, given, (".yaml", ".yml", ".json"))

    def _documents(self) -> Place | None:
        given = self.own.documents
        return None if given is None else Place("answers.documents", given, (*MARKDOWN, ".jsonl", ".ndjson"))

    def _replies(self, place: Place) -> Replies:
        files = place.files()
        if len(files) > 1:
            raise place.error(f"is a folder with {len(files)} such files", "name one of them")
        return replies.read(files[0].name, place.read(files[0].name))

    def _passages(self, place: Place) -> list[Passage]:
        found: list[Passage] = []
        for name, text in place.texts():
            read = passages.of_markdown if name.lower().endswith(MARKDOWN) else passages.of_jsonl
            try:
                found += read(name, text, self.own.passage_chars, self.own.overlap_chars)
            except passages.BadLineError as error:
                raise place.error(str(error), "mend the line", name) from error
        if not 0 < len(found) <= MAX_PASSAGES:
            raise place.error(f"gives {len(found)} passages", f"give documents for 1 to {MAX_PASSAGES}")
        return found

    # Training

    def network(self, encoding: Encoding) -> torch.nn.Module:
        from tasks import encoder, vectors

        body = self.body()
        head = vectors.Cosines(body.width, len(encoding.labels), self.experiment.model.dropout)
        return encoder.TextNetwork(body, vectors.WithVectors(head, WIDTH))

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:
        from tasks.vectors import WithoutVectors

        return {name: WithoutVectors(student, WIDTH) for name, student in super().students(encoding).items()}

    def taught(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, :-WIDTH]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of rows outside all intents, which are only measured, there is none."""
        intents = logits[:, :-WIDTH]
        is_inside = targets < intents.shape[1]
        if not is_inside.any():
            return intents.sum() * 0.0
        return super().loss(intents[is_inside], targets[is_inside])

    def outputs(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        intents, vectors = logits[:, :-WIDTH].float(), logits[:, -WIDTH:].float()
        return torch.cat([intents.softmax(dim=1), -intents.max(dim=1, keepdim=True).values, vectors], dim=1)

    # Figures

    def calibrate(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
        inside = outputs[truth < _num_intents(outputs), -WIDTH - 1]
        shift = np.zeros(outputs.shape[1], np.float32)
        if len(inside):
            shift[-WIDTH - 1] = -np.quantile(inside, 1.0 - self.own.rejected)
        return shift

    def right(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1 where the intent is the true one and not rejected, or a text outside all of them is.

        While a network is trained it has no threshold yet and rejects hardly anything.
        """
        return np.asarray(_decided(outputs) == truth, np.float64)

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.asarray(_decided(outputs) == _decided(reference), np.float64)

    def metrics(self, outputs: np.ndarray, truth: np.ndarray, encoding: Encoding) -> dict[str, Any]:
        """Those of the intents are of texts that have one, whether rejected or not.

        `accuracy` is the mean of `right`; `in_scope_rejected` and `out_of_scope_recall` are shares at the rung's
        threshold, `out_of_scope_auroc` needs none.
        """
        num, distance = len(encoding.labels), outputs[:, -WIDTH - 1]
        is_inside = truth < num
        if not is_inside.any():
            raise DataError("data.source", self.outside, "is the label of all test rows", "add rows with an intent")
        found = metrics.classification(outputs[is_inside, :num], truth[is_inside], encoding.labels)
        found |= {
            "in_scope_accuracy": found["accuracy"],
            "accuracy": float(self.right(outputs, truth).mean()),
            "in_scope_rejected": float((distance[is_inside] > 0).mean()),
            "rows": len(truth),
        }
        if not is_inside.all():
            found["out_of_scope_recall"] = float((distance[~is_inside] > 0).mean())
            found["out_of_scope_auroc"] = metrics.auroc(distance, ~is_inside)
            found["out_of_scope_rows"] = int((~is_inside).sum())
        return found

    # Serving

    def open(self) -> None:
        super().open()
        assert self.ready is not None

    def output_spec(self, encoding: Encoding) -> TensorSpec:
        return TensorSpec("scores", "FP32", (-1, len(encoding.labels) + 1 + WIDTH))

    def labels(self, outputs: np.ndarray, encoding: Encoding) -> list[str] | None:
        names = (*encoding.labels, self.outside)
        return [names[i] for i in _decided(outputs)]

    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray | Asked:
        """A text, or a JSON object with `text` and, where wanted, `slots` and `conversation`.

        Raises Rejected as `clean`, and for `bad_slots` and `bad_conversation`.
        """
        text = self.text(body, content_type)
        row, is_cut = self.row(text, encoding.shape[0])
        tree = json.loads(body) if content_type == JSON else {}
        tree = tree if isinstance(tree, dict) else {}
        conversation = tree.get("conversation") or ""
        if not isinstance(conversation, str):
            raise Rejected("bad_conversation", "`conversation` is no text; send what the last answer had there")
        return Asked(row, Question(text, self._slots(tree.get("slots")), conversation, is_cut))

    def answer(self, outputs: np.ndarray, encoding: Encoding, ask: Ask) -> dict[str, Any]:
        """`kind` (answer, question, passage, hand_over), `text`, `intent`, `confidence`, `source`, `reason`, and
        `conversation`, to be sent with the next turn. Raises Rejected for a conversation that is none of this token's.
        """
        question, ready = ask.detail, self.ready
        before, endpoint = Conversation(), self.experiment.name
        if question.conversation:
            before = conversations.opened(question.conversation, ask.secret, endpoint, self.own.conversation_ttl)
        probabilities = outputs[: len(encoding.labels)]
        likeliest = int(probabilities.argmax())
        is_covered = bool(outputs[-WIDTH - 1] <= 0)
        confidence = float(probabilities[likeliest])
        heard = Heard(question.text, encoding.labels[likeliest], confidence, is_covered, question.slots)

        def find(text: str, said: str) -> dialogue.Found | None:
            tokens = self.rows([f"{said} {text}"])[0]
            if not said:
                return ready.library.best(tokens, ask.variant, outputs[-WIDTH:])
            # A text with a word of its own that no passage has is about something else. Both have no vector together.
            is_more_of_it = ready.library.words.knows(self.rows([text])[0])
            return ready.library.best(tokens) if is_more_of_it else None

        said, after = dialogue.respond(ready.replies, heard, before, find, self.own.least_confidence)
        after = after.after(question.text, self.own.max_turns)
        sealed = conversations.sealed(after, ask.secret, endpoint) if ask.secret else None
        return said.to_json() | {"conversation": sealed} | ({"cut": True} if question.is_cut else {})

    @property
    def ready(self) -> Prepared:
        """What answers need beside the model; in memory for as long as the version is."""
        return _prepared(self.files)

    def _slots(self, tree: object) -> dict[str, str]:
        if tree is None:
            return {}
        if not isinstance(tree, dict) or len(tree) > MAX_SLOTS:
            raise Rejected("bad_slots", f"`slots` is not an object of at most {MAX_SLOTS} texts")
        known, found = self.ready.replies.slots, {}
        for name, value in tree.items():
            if name not in known:
                raise Rejected("bad_slots", f"there is no slot {name[:40]!r} (there: {', '.join(known) or 'none'})")
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise Rejected("bad_slots", f"slot {name} is no text")
            text = str(value).strip()
            if not 0 < len(text) <= replies.MAX_VALUE_CHARS or not known[name].takes(text):
                raise Rejected("bad_slots", f"slot {name} has not the form it must have")
            found[name] = text
        return found


@lru_cache(maxsize=2)  # the version that serves, and the one that is to come; their tasks are made anew with each limit
def _prepared(files: Files) -> Prepared:
    try:
        said = replies.parse(TEMPLATES, json.loads(files(TEMPLATES)))
    except NotFoundError:
        said = Replies()
    return Prepared(said, retrieval.load(files))


def _num_intents(outputs: np.ndarray) -> int:
    return int(outputs.shape[1]) - 1 - WIDTH


def _decided(outputs: np.ndarray) -> np.ndarray:
    """int64 [n]: the likeliest intent, or their number where the text is outside all of them."""
    num = _num_intents(outputs)
    return np.where(outputs[:, num] > 0, num, outputs[:, :num].argmax(axis=1))
