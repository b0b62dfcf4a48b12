"""What one kind of problem knows: the `Task` base class and how a task is found by its name.

The same object cleans rows in preprocessing, builds the network in training and reads requests in serving,
so the three cannot drift apart. Knows no Ray, no files and no HTTP; torch only inside the methods that train.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cluster.config import Experiment
from cluster.errors import ConfigError, NotFoundError, RequestError, TrimtabError
from tasks import guard, metrics, own

if TYPE_CHECKING:
    import torch

    from cluster.config import Train

BUILT_IN = {
    "images": "tasks.images:Images",
    "sentiment": "tasks.sentiment:Sentiment",
    "answers": "tasks.answers:Answers",
    "recommend": "tasks.recommend:Recommend",
}
# Further modules whose code decides a built-in task's results.
TEXT = ("tasks.text", "tasks.wording", "tasks.pretrained", "tasks.encoder", "tasks.students", "tasks.metrics")
RECOMMEND = (
    "catalogue",
    "encoder",
    "forward",
    "neighbours",
    "pretrained",
    "ranker",
    "ranking",
    "text",
    "towers",
    "wording",
)
ANSWERS = ("conversations", "dialogue", "documents", "passages", "replies", "retrieval", "vectors")
HELPERS = {
    "images": ("tasks.augment", "tasks.backbone", "tasks.cnn", "tasks.metrics", "tasks.weights"),
    "sentiment": TEXT,
    "answers": (*TEXT, *(f"tasks.{name}" for name in ANSWERS)),
    "recommend": tuple(f"tasks.{name}" for name in RECOMMEND),
}

# Kinds of input by the suffix of a file that holds one.
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".json": "application/json",
    ".txt": "text/plain",
}

Files = Callable[[str], bytes]  # a file that came with the dataset, by its name; raises NotFoundError


class Rejected(Exception):
    """A row or a request body that cannot be used; `reason` is a short slug that is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclass(frozen=True)
class Encoding:
    """What a dataset fixed and a model must keep: label order, row shape, statistics of the training rows."""

    labels: tuple[str, ...]  # empty where targets are values
    shape: tuple[int, ...]  # of one encoded row, for images (height, width, channels)
    dtype: str  # numpy name of an encoded row's dtype, for images "uint8"
    statistics: dict[str, Any]  # from the training split alone; JSON-able

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": list(self.labels), "shape": list(self.shape)}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> Encoding:
        return Encoding(tuple(tree["labels"]), tuple(tree["shape"]), tree["dtype"], tree["statistics"])


@dataclass(frozen=True)
class Ask:
    """What a request says beside its row, for the answer alone: nothing of it goes through the model."""

    detail: Any = None  # what the task's `decode` made of it
    options: Mapping[str, str] = field(default_factory=dict)  # of the URL's query
    client: str = ""  # differs from token to token and says nothing of it
    secret: bytes = (
        b""  # of this client's token, the same in all replicas: to seal what comes back with a later request
    )
    variant: str = ""  # the rung that gave the outputs


@dataclass(frozen=True)
class Asked:
    """A request with more to it than its encoded row."""

    row: np.ndarray
    detail: Any


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the Open Inference Protocol; -1 in `shape` is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Task(abc.ABC):
    """Subclass this for a problem of your own and name it `my_package.my_module:MyTask` in the experiment."""

    takes: ClassVar[Literal["file", "text"]] = "text"
    """What a table's text stands for: itself, or a file, as base64 of its bytes or as a path to it."""
    targets: ClassVar[Literal["label", "value"]] = "label"
    """Classes, as int64 index into the encoding's labels, or numbers, as float32."""
    ambiguous: ClassVar[bool] = False
    """Whether equal inputs may rightly have different targets; where not, such rows are rejected."""
    trims: ClassVar[bool] = False
    """Whether encoded rows are [length] and end in zeros that may be cut off, as texts are."""
    int8: ClassVar[Literal["static", "dynamic"]] = "static"
    """How 8-bit forms get the range of their activations: from training rows, or at run time (transformers)."""

    student_share: float = 1.0
    """Steps that students get at most, to those of the trained network: more where theirs are far cheaper."""

    files: Files
    """What `gather` kept, in every step after preprocessing; in serving also what `accompany` added."""
    class_weights: torch.Tensor | None
    """float32 [num_labels] that the loss weighs rows by, where `train.class_weights` is `balanced`."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.files, self.class_weights = _no_files, None

    def inspect(self) -> object:
        """Raises UserError for what is wrong in files that `accompany` will read; differs when they do, JSON-able.

        Quick: it is asked whenever a plan is made, without a cluster. Of built-in tasks alone.
        """
        return None

    # Preprocessing

    @abc.abstractmethod
    def row_shape(self, values: Iterable[bytes | np.ndarray]) -> tuple[int, ...]:
        """Shape of encoded rows: from the experiment, or from the first good value. Raises DataError."""

    @abc.abstractmethod
    def clean(self, value: bytes | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One source value as an encoded row of `shape`. Raises Rejected."""

    @abc.abstractmethod
    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """Exact, mergeable sums over encoded rows [n, *shape] (integers: order must not matter)."""

    @abc.abstractmethod
    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The merged statistics kept in the Encoding, JSON-able.

        Where targets are values, their `mean` and `std` in the training rows are added to it as `target`.
        """

    def gather(self) -> dict[str, bytes]:
        """Files to keep with the dataset by name, for `files`: a catalogue, documents; by default none.

        Called once, where the source lies. Raises DataError.
        """
        return {}

    # Training

    @abc.abstractmethod
    def network(self, encoding: Encoding) -> torch.nn.Module:
        """Maps encoded rows [n, *shape] in the encoding's dtype to logits float32 [n, num_labels], or values [n, 1].

        Normalising is part of the network, so serving cannot forget it.
        """

    def outputs(self, logits: torch.Tensor) -> torch.Tensor:
        """What the exported network answers, float32 [n, width]: by default probabilities, or the values."""
        return logits.float() if self.targets == "value" else logits.float().softmax(dim=1)

    def right(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """How right each answer is, float64 [n] from 0 to 1: the mean is what everything here calls accuracy.

        By default 1 where the likeliest label is the true one. A task with values says when one is close enough.
        """
        if self.targets == "value":
            raise NotImplementedError(f"{type(self).__name__} has values: let right() say when one is close enough")
        return np.asarray(outputs.argmax(axis=1) == truth, np.float64)

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """How far answers float32 [n, width] are those of a reference of the same shape, float64 [n] from 0 to 1."""
        return self.right(outputs, reference[:, 0] if self.targets == "value" else reference.argmax(axis=1))

    def metrics(self, outputs: np.ndarray, truth: np.ndarray, encoding: Encoding) -> dict[str, Any]:
        """All figures of answers float32 [n, width] against the truth [n], JSON-able; those that are floats are shown.

        `accuracy`, the mean of `right`, must be among them, and `rows`.
        """
        if self.targets == "value":
            return metrics.regression(outputs, truth) | {"accuracy": float(self.right(outputs, truth).mean())}
        return metrics.classification(outputs, truth, encoding.labels)

    def example(self, encoding: Encoding, n: int) -> np.ndarray:
        """Rows [n, *shape] that could be real ones, to try an exported network with; by default random numbers."""
        generator, dtype = np.random.default_rng(0), np.dtype(encoding.dtype)
        if dtype.kind in "iu":
            top = min(int(np.iinfo(dtype).max), 255)
            return generator.integers(0, top + 1, (n, *encoding.shape)).astype(dtype)
        return generator.standard_normal((n, *encoding.shape)).astype(dtype)

    def larger(self, network: torch.nn.Module, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        """Slower and more accurate forms of the trained network by name, best last; by default none.

        For rungs above it, without further training: it is asked several times. A name becomes part of a
        variant's: `views` gives `onnx-views-fp32` and `onnx-views-int8`.
        """
        return {}

    def finished(self, network: torch.nn.Module, rows: np.ndarray, truth: np.ndarray) -> torch.nn.Module:  # noqa: ARG002
        """The form of the trained network that is exported; by default the network itself.

        For what is chosen after the training: from validation rows [n, *shape] and their targets [n] alone.
        """
        return network

    def simpler(self, network: torch.nn.Module, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        """Cheaper forms than the finished network that need no training, by name, for rungs below it; by default none.

        They are taken as they are: a name gives one variant, `neighbours` gives `neighbours-fp32`.
        """
        return {}

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        """Smaller networks of the same form by name, for cheaper rungs of the ladder; by default none.

        They learn from the trained network's answers. A name becomes the first part of a variant's: `student`
        gives `student-fp32` and `student-int8`. `torch.manual_seed` was called with the experiment's seed.
        """
        return {}

    def frozen(self, network: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module] | None:  # noqa: ARG002
        """(body, head) of a network whose body stays as it is, with network(rows) = head(body(rows)); by default None.

        The body's answers float32 [n, width] are then computed once for each row, which is not augmented, and the
        head alone is trained and kept.
        """
        return None

    def parameter_groups(self, network: torch.nn.Module, recipe: Train) -> list[dict[str, Any]]:
        """What the optimiser gets of what is trained: groups of `params`, each with its peak `lr`."""
        return [{"params": list(network.parameters()), "lr": recipe.learning_rate}]

    @property
    def outside(self) -> str | None:
        """A label that is no class: its rows train nothing, and their target elsewhere is the number of labels."""
        return None

    def taught(self, logits: torch.Tensor) -> torch.Tensor:
        """The columns of logits float32 [n, width] that a student learns from the trained network; by default all."""
        return logits

    def calibrate(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """What is added to all answers of one form of the network, float32 [width]; by default None, nothing.

        From its own answers float32 [n, width] on the validation split, against the truth [n]: each rung of a
        ladder has another scale, so each gets thresholds of its own, inside its graph.
        """
        return None

    def accompany(self, forwards: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, bytes]:  # noqa: ARG002
        """Files to keep with a model version by name, for `files`; by default none. Raises DataError.

        Read when the version is made, so they may change without a new training. `forwards` maps each variant to
        its answers float32 [n, width] for encoded rows.
        """
        return {}

    def augment(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Encoded rows [n, *shape] changed at random for training; by default unchanged."""
        return rows

    @abc.abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits float32 [n, num_labels] against int64 [n], or of values [n, 1] against float32 [n].

        `cross_entropy` is the usual one of labels.
        """

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over rows, with `model.label_smoothing` and `class_weights`.

        Logits [n, labels], or [n, members, labels] of an ensemble whose members each have a loss of their own. Weights
        do not change what a row's loss is divided by, so that the mean over a batch is that over its parts.
        """
        from torch.nn import functional

        if logits.ndim == 3:
            targets, logits = targets.repeat_interleave(logits.shape[1]), logits.flatten(0, 1)
        smoothing, weights = self.experiment.model.label_smoothing, self.class_weights
        losses = functional.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)
        return losses.mean()

    # Serving

    def open(self) -> None:  # noqa: B027
        """Load what `decode` and `answer` need, before a version serves; called off the event loop.

        Raises TrimtabError where it cannot: the version is then not served.
        """

    @abc.abstractmethod
    def input_spec(self, encoding: Encoding) -> TensorSpec:
        """The Open Inference Protocol's tensor: the encoded row, or `BYTES` (-1, 1), each of which `decode` gets."""

    def output_spec(self, encoding: Encoding) -> TensorSpec:
        """The tensor of answers; beside it there is `label` where `labels` has something to say."""
        if self.targets == "value":
            return TensorSpec("value", "FP32", (-1, 1))
        return TensorSpec("probabilities", "FP32", (-1, len(encoding.labels)))

    def labels(self, outputs: np.ndarray, encoding: Encoding) -> list[str] | None:
        """The likeliest label of each of the answers [n, width]; None where targets are values."""
        if self.targets == "value":
            return None
        return [encoding.labels[i] for i in outputs.argmax(axis=1)]

    @abc.abstractmethod
    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray | Asked:
        """A request body as one encoded row. Raises Rejected (unusable body), KeyError never.

        `content_type` is lower case without parameters, for example `image/png`. One of the `instances` of a
        request comes as `application/json`, a text of the protocol as `text/plain`.
        """

    @abc.abstractmethod
    def media_types(self) -> tuple[str, ...]:
        """Content types `decode` takes, for example `image/png`."""

    def sample(self, row: np.ndarray, encoding: Encoding) -> tuple[str, bytes] | None:  # noqa: ARG002
        """An encoded row as a file that `decode` takes, to try an endpoint with; None where there is no such form."""
        return None

    def answer(self, outputs: np.ndarray, encoding: Encoding, ask: Ask) -> dict[str, Any]:
        """What `/predict` says about one row, JSON-able: outputs float32 [width]. Raises Rejected for a bad option.

        By default the value, or the likeliest label and the probability of each label: with the option `top_k`, of the
        URL or of the request's `detail`, those of the k likeliest, the likeliest first.
        """
        if self.targets == "value":
            _refuse_unknown(ask.options, ())
            return {"value": float(outputs[0])}
        _refuse_unknown(ask.options, ("top_k",))
        given = ask.detail.get("top_k") if isinstance(ask.detail, dict) else None
        top_k = _top_k(ask.options.get("top_k", given), len(encoding.labels))
        order = range(len(outputs)) if top_k is None else np.argsort(-outputs, kind="stable")[:top_k].tolist()
        pairs = {encoding.labels[i]: round(float(outputs[i]), 6) for i in order}
        return {"label": encoding.labels[int(outputs.argmax())], "probabilities": pairs}


def learner(task: Task, network: torch.nn.Module) -> torch.nn.Module:
    """The part of a task's network that is trained, and whose weights are kept."""
    parts = task.frozen(network)
    return network if parts is None else parts[1]


def _refuse_unknown(options: Mapping[str, str], known: Sequence[str]) -> None:
    if unknown := [name for name in options if name not in known]:
        raise Rejected(f"option {unknown[0][:40]}", f"is unknown; known are: {', '.join(known) or 'none'}")


def _top_k(given: object, num_labels: int) -> int | None:
    if given is None:
        return None
    number = (
        int(given) if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 9 else given
    )
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= num_labels:
        raise Rejected("top_k", f"{str(given)[:40]!r} is no whole number from 1 to {num_labels}")
    return number


def marks(task: Task, encoding: Encoding, outputs: Sequence[Sequence[float]], said: Sequence[str]) -> np.ndarray:
    """How right each of n answers was by what somebody said of it, float64 [n] from 0 to 1.

    `said` are labels, of which one that `encoding` does not know is never met, or values where there are no labels.
    """
    if encoding.labels:
        known = {label: place for place, label in enumerate(encoding.labels)}
        truth = np.array([known.get(label, -1) for label in said], np.int64)
    else:
        truth = np.array([float(value) for value in said], np.float32)
    return np.asarray(task.right(np.array(outputs, np.float32), truth))


def trimmed(rows: Any) -> Any:
    """Rows [n, length] of numpy or torch without the columns at the end that are zero in all of them, but for one."""
    used = (rows != 0).any(0).nonzero()
    columns = used[0] if isinstance(used, tuple) else used[:, 0]
    return rows[:, : int(columns[-1]) + 1 if len(columns) else 1]


def _no_files(name: str) -> bytes:
    raise NotFoundError(f"no file {name!r} came with the dataset; preprocess again")


def load_task(experiment: Experiment, files: Files | None = None) -> Task:
    """The experiment's task. One of the user's own answers for itself: what a method raises names that method.

    Raises ConfigError when it cannot be imported or made, is not a Task, or lacks a method.
    """
    module_name, class_name = location(experiment.task)
    own.prepare(experiment)
    found = _imported(experiment.task, module_name, class_name)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError("task", experiment.task, "is not a subclass of tasks.task.Task", "derive it from Task")
    if lacking := sorted(found.__abstractmethods__):
        names = ", ".join(f"{name}()" for name in lacking)
        raise ConfigError("task", experiment.task, f"does not define {names}", "define it as tasks/task.py describes")
    try:
        task = found(experiment)
    except Exception as error:
        if isinstance(error, TrimtabError):
            raise
        raise guard.failure(experiment.task, "its __init__()", error) from error
    task.files = files or _no_files
    if ":" in experiment.task:
        guard.guard(task, experiment.task, METHODS, (TrimtabError, Rejected, RequestError))
    return task


METHODS = tuple(
    name
    for name, value in vars(Task).items()
    if callable(value) and not name.startswith("_") and name != "cross_entropy"  # which is there to be called
)
"""Names of all that a task may define."""


def _imported(name: str, module_name: str, class_name: str) -> Any:
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        mend = f"install {error.name} where the cluster runs"
        if error.name in (module_name, module_name.partition(".")[0]):
            mend = "put it into the folder of the experiment file, or install it as a package"
        raise ConfigError("task", name, f"cannot be imported ({error})", mend) from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "task", name, f"cannot be imported ({error})", "check its name and what it imports"
        ) from error
    except Exception as error:  # what the module itself does
        raise guard.failure(name, "importing it", error) from error


def code_version(experiment: Experiment, *modules: str) -> str:
    """16 hex digits of the code that decides a step's result: the task's files and `modules`.

    Finds files without importing them: `trimtab plan` must not load torch.
    """
    module_name, _ = location(experiment.task)
    code = own.find(experiment)
    names = {"tasks.task", *HELPERS.get(experiment.task, ()), *modules} | ({module_name} if code is None else set())
    digest = hashlib.sha256(b"" if code is None else code.digest.encode())
    for name in sorted(names):
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            mend = "put it into the folder of the experiment file, or install it as a package"
            raise ConfigError("task", experiment.task, f"module {name} is not found", mend)
        digest.update(name.encode() + b"\0" + Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


def location(name: str) -> tuple[str, str]:
    """Module and class of a task by its name in an experiment. Raises ConfigError for one that there is none of."""
    if ":" not in name and name not in BUILT_IN:
        raise ConfigError("task", name, "unknown task", f"use {', '.join(BUILT_IN)} or my_package.my_module:MyTask")
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    return module_name, class_name
