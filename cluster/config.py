"""The experiment file as frozen, strict models: every field with its default, unit and effect.

Pure: no Ray, no torch, no files, no clock. `cluster.experiment` reads the file and turns what pydantic
says into one sentence; this module only knows what a right experiment is.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    Tag,
    field_validator,
    model_validator,
)

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FORMS = ("a number", "a range")  # of `train.workers`
MAX_THREADS, MAX_CONCURRENCY = 64, 64  # of one replica
SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def _quantity(value: object, units: dict[str, float] | dict[str, int], kind: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value) if isinstance(value, str) else None
    if match and match[2] in units:
        return float(match[1]) * units[match[2]]
    raise ValueError(f"not a {kind}; write a number and one of {', '.join(units)}, for example {example}")


def _duration(value: object) -> float:
    return _quantity(value, DURATION_UNITS, "duration", "10m")


def _size(value: object) -> int:
    return int(_quantity(value, SIZE_UNITS, "size", "512MiB"))


# In memory a duration is seconds (float) and a size bytes (int); in a file both carry their unit, also when
# an experiment is written out again, so that a bare number is never accepted and never guessed at.
Duration = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=str),
    PlainSerializer(lambda seconds: f"{seconds!r}s", return_type=str),
    Field(description="a number and a unit: 200ms, 30s, 10m, 12h, 7d"),
]
Size = Annotated[
    int,
    BeforeValidator(_size, json_schema_input_type=str),
    PlainSerializer(lambda num_bytes: f"{num_bytes}B", return_type=str),
    Field(description="a number and a unit: 64KiB, 512MiB, 2GiB"),
]
AUGMENTATIONS = ("shift", "crop", "flip", "colour", "cutout")
PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "shift_flip": ("shift", "flip"),
    "crop_flip": ("crop", "flip"),
    "strong": ("crop", "flip", "colour", "cutout"),
}


def _augmentations(value: str) -> tuple[str, ...]:
    """The changes a word stands for, in their order. Raises ValueError."""
    words = value.split("+")
    steps = [step for word in words for step in PRESETS.get(word, (word,))]
    unknown = [step for step in steps if step not in AUGMENTATIONS]
    if unknown or len(set(steps)) < len(steps) or (len(words) > 1 and "none" in words):
        problem = f"{unknown[0]!r} is no augmentation" if unknown else f"{value} names one twice, or none beside others"
        raise ValueError(f"{problem}; use {', '.join((*PRESETS, *AUGMENTATIONS))}, or several of them joined by +")
    return tuple(steps)


def _augment(value: str) -> str:
    _augmentations(value)
    return value


Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class DigitsSource(Section):
    kind: Literal["digits"]
    """scikit-learn's 1,797 handwritten digits, 8 x 8 x 1: no network, no account."""


class IdxSource(Section):
    kind: Literal["idx"]
    """MNIST's own gzipped idx files in one folder; the t10k files, if there, are the test split."""
    path: str
    """Folder with train-images-idx3-ubyte.gz and its companions."""


class TorchvisionSource(Section):
    kind: Literal["torchvision"]
    """A torchvision data set by name, downloaded to `path` when this machine can."""
    name: Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN"]
    path: str = "~/.trimtab/torchvision"


class ImageFolderSource(Section):
    kind: Literal["image_folder"]
    """One folder per class, JPEG and PNG files inside, at any depth."""
    path: str
    test_path: str | None = None
    """A second folder of the same shape that is the test split."""


class TableSource(Section):
    path: str
    """A file, a folder of files or a pyarrow.fs URI."""
    test_path: str | None = None
    """Files whose rows are the test split; without it the test split is drawn from `path`."""
    input: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Column with the input; by default `image` for images and `text` for every other task.

    Images are encoded JPEG or PNG bytes, base64 text of them, or a path relative to the file. Several columns are one
    input: a JSON object of them.
    """
    label: str = "label"
    """Column with the label: text or whole number; any number where the task predicts values."""
    key: str | None = None
    """Column whose equal values must stay in one split (a patient, a shoot); by default the row's content."""


class ParquetSource(TableSource):
    kind: Literal["parquet"]


class CsvSource(TableSource):
    kind: Literal["csv"]


class JsonlSource(TableSource):
    kind: Literal["jsonl"]


class Events(Section):
    """Columns of the file that says who chose what and when."""

    user: str = "user"
    item: str = "item"
    time: str = "time"
    """Seconds since 1970, or a date as in ISO 8601."""
    rating: str | None = None
    """Without it every event counts as a choice."""
    lowest: float = 0.5
    """Ratings outside of `lowest` to `highest` are rejected."""
    highest: float = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest:g} is not below highest {self.highest:g}; swap them")
        return self


class Items(Section):
    """Columns of the file that says what there is to choose from."""

    item: str = "item"
    title: str = "title"
    text: list[str] = []
    """Further columns that describe an item, read after its title: genres, tags, a description."""


class InteractionsSource(Section):
    kind: Literal["interactions"]
    """Who chose what, for the task `recommend`: a user's last event is a test row, the one before a validation row."""
    path: str
    """CSV, JSON lines or Parquet with the events: a file, a folder of files or a pyarrow.fs URI."""
    items: str
    """The same with the items."""
    columns: Events = Events()
    item_columns: Items = Items()
    history: Annotated[int, Field(ge=2, le=4096)] = 512
    """Newest events of a user that a row has; what is in it is not recommended again."""
    positions: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Newest events of a user that become training rows, each with what came before it."""


Source = Annotated[
    DigitsSource
    | IdxSource
    | TorchvisionSource
    | ImageFolderSource
    | ParquetSource
    | CsvSource
    | JsonlSource
    | InteractionsSource,
    Field(discriminator="kind"),
]


class Split(Section):
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training rows held out for early stopping and for choosing recipes."""
    test: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share drawn as the test split; 0.1 when the source brings no test rows of its own."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.validation + (self.test or 0.0) >= 1.0:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave no training rows; keep their sum below 1"
            )
        return self


class Image(Section):
    height: Annotated[int, Field(ge=4, le=1024)]
    width: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3] = 3
    resize: bool = True
    """Scale images of other sizes; false rejects them as `wrong_shape`."""


class Data(Section):
    source: Source
    image: Image | None = None
    """Size every image is brought to; by default the size of the source's first good image, others rejected."""
    split: Split = Split()
    shards: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Parquet files per split; more of them let more workers read at once. None is larger than 256 MiB of encoded rows:
    large splits have more."""
    max_rejected: Share = 0.1
    """Preprocessing fails when more than this share of the rows is rejected."""


class Model(Section):
    network: Literal[
        "small", "large", "resnet18", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"
    ] = "small"
    """`small` (16 and 32 channels, tens of thousands of weights), `large` (three double blocks, for colour), or one of
    torchvision's: much slower, and worth it with pretrained `weights`."""
    weights: str | None = None
    """File of torchvision's weights for that network, .pth or .safetensors, where every node can read it; all but the
    last layer are taken."""
    side: Annotated[int, Field(ge=32, le=1024)] | None = None
    """Pixels a side that torchvision's network sees; by default 224 with `weights`, else the image's own size. Time
    grows with its square."""
    width: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    """Multiplies the channels of the network's layers; time grows with its square."""
    dropout: Share = 0.0
    label_smoothing: Share = 0.0

    @model_validator(mode="after")
    def _settings_fit_the_network(self) -> Self:
        is_ours = self.network in ("small", "large")
        for name in ("weights", "side"):
            if is_ours and getattr(self, name) is not None:
                mend = f"set network to one of torchvision's, or leave {name} away"
                raise ValueError(f"{name} is not for the network {self.network}; {mend}")
        if not is_ours and self.width != 1.0:
            raise ValueError(f"width {self.width:g} is not for the network {self.network}; leave width away")
        return self


class Text(Section):
    """How texts are read; without effect on other tasks."""

    encoder: Literal["frozen", "fine_tune"] = "frozen"
    """`frozen` trains a head on the pretrained encoder's vectors, in seconds; `fine_tune` trains the encoder too, which
    is more accurate and takes about 25 CPU seconds for 1,000 short texts and epoch."""
    encoder_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 8e-5
    """Peak for the encoder's own weights where it is fine-tuned; `train.learning_rate` is then that of its head."""
    layers: Annotated[int, Field(ge=1, le=6)] = 6
    """Layers of the pretrained encoder that are used, from the first; time is in proportion to them."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 64
    """Word pieces of a text that are read; the rest is cut off. Most words are one or two."""
    max_chars: Annotated[int, Field(ge=16, le=1_000_000)] = 20_000
    """Longer texts are refused before anything is done with them."""


class Answers(Section):
    """What an endpoint of the task `answers` says, and how sure it must be; without effect on other tasks."""

    templates: str | None = None
    """YAML or JSON file with the text for each intent and the slots in it; without it all is left to the documents."""
    documents: str | None = None
    """Folder or file of Markdown or JSON lines, in which is looked for what no intent covers."""
    out_of_scope_label: str = "oos"
    """Label of rows that no intent covers: nothing is learned from them, they measure how well that is noticed."""
    rejected: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Share of the questions that an intent covers which may be taken for such that none does; fewer of those are then
    answered wrongly. On the validation split, for each rung of the ladder by itself."""
    least_confidence: Share = 0.5
    """A passage is quoted with this confidence or more; with less a person takes over."""
    passage_chars: Annotated[int, Field(ge=100, le=4000)] = 700
    """Longest passage."""
    overlap_chars: Annotated[int, Field(ge=0, le=1000)] = 120
    """How much of a passage the next one of the same heading repeats at most."""
    max_turns: Annotated[int, Field(ge=1, le=32)] = 8
    """Turns of a conversation that are remembered."""
    conversation_ttl: Duration = 1800.0
    """A conversation is over after so long without a turn."""


class Recommend(Section):
    """How the task `recommend` learns and ranks; without effect on other tasks."""

    width: Annotated[int, Field(ge=8, le=512)] = 64
    """Numbers in the vector of an item and of a user, of each pair of towers."""
    ensemble: Annotated[int, Field(ge=1, le=16)] = 4
    """Pairs of towers that learn side by side; the mean of their scores ranks. Training takes so many times as long."""
    recent: Annotated[int, Field(ge=1, le=512)] = 20
    """Newest items of a history that say what a user likes."""
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 20
    """Items chosen by the same users that are kept for each item."""
    shrink: Annotated[float, Field(ge=0.0, le=10_000.0)] = 20.0
    """Users, added to those that two items have: likeness by few of them counts less."""
    diversity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """How much items of one answer shall differ where a request does not say it; 0 is the plain order."""


class EarlyStopping(Section):
    metric: Literal["accuracy", "loss"] = "accuracy"
    """Measured on the validation split after every epoch."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """Improvement below this counts as none."""
    target: Annotated[float, Field(ge=0.0)] | None = None
    """Stop as soon as the metric reaches this."""


class Workers(Section):
    """An elastic number of workers."""

    min: Annotated[int, Field(ge=1, le=1024)] = 1
    max: Annotated[int, Field(ge=1, le=1024)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; raise max or lower min")
        return self


def _form(value: object) -> str:
    return FORMS[isinstance(value, dict | Workers)]


class Train(Section):
    workers: Annotated[
        Annotated[int, Field(ge=1, le=1024), Tag(FORMS[0])] | Annotated[Workers, Tag(FORMS[1])], Discriminator(_form)
    ] = 1
    """Processes of the distributed data-parallel group; the global batch is shared among them.

    `{min: 1, max: 4}` goes on with fewer when a node is lost, and with more when one comes.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU per worker when the cluster has that many, else CPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 autocast where the device multiplies bf16 natively; `fp16` is for GPUs without bf16."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    rows: Literal["train", "train_and_validation"] = "train"
    """`train_and_validation` also learns from the validation rows, which then choose nothing: every epoch is done."""
    keep: Literal["best", "last"] = "best"
    """The epoch whose weights become a version: the best on the validation split, or the last one that was done."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Rows per optimiser step, over all workers: how many there are changes nothing about a step."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Parts in which each worker computes its share of a batch: less memory, the same step."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """How the learning rate goes after its warm-up: `one_cycle` and `cosine` fall to nothing, `constant` stays."""
    warmup: Share | None = None
    """Share of all steps in which the learning rate rises; by default 0.25 of `one_cycle`, 0.05 of the others."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 0.01
    """Peak of the schedule (AdamW)."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """A longer gradient is shortened to this Euclidean norm."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Validate and keep an exponential moving average of the weights with this decay, for example 0.999."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a label's rows count the more in the loss the fewer there are."""
    augment: Annotated[str, AfterValidator(_augment)] = "none"
    """Changes at random that leave an image's label as it is: `shift` by a tenth of the side, `crop` and scale up,
    `flip` left to right, `colour` (brightness, contrast, saturation), `cutout` of a rectangle; several joined by `+`,
    or `none`, `shift_flip`, `crop_flip`, `strong` (crop+flip+colour+cutout)."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    max_failures: Annotated[int, Field(ge=0, le=1000)] = 3
    """Worker-group deaths survived, each resumed from the last checkpoint."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    checkpoint_every: Duration = 300.0
    """A checkpoint inside an epoch that takes longer than this; each epoch ends with one anyway."""
    collective_timeout: Duration = 600.0
    """A worker that waits longer than this for the others fails instead of hanging."""
    wait: Duration = 0.0
    """How long to wait for a cluster with CPUs or GPUs enough; by default one with too few is refused at once."""

    @property
    def keeps_last(self) -> bool:
        """Whether the last epoch becomes the version, whatever its figures say."""
        return self.keep == "last" or self.rows == "train_and_validation"

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The changes that `augment` stands for, in their order."""
        return _augmentations(self.augment)

    @model_validator(mode="after")
    def _nothing_stops_early_on_rows_it_learns_from(self) -> Self:
        if self.rows == "train_and_validation" and self.early_stopping is not None:
            raise ValueError("rows train_and_validation leaves nothing to stop by; set early_stopping: null")
        return self

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @model_validator(mode="after")
    def _dials_agree(self) -> Self:
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 needs a GPU and device is cpu; use bf16, or auto")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into accumulate {self.accumulate} parts; lower accumulate"
            )
        if self.checkpoint_every < 1.0:
            raise ValueError(f"checkpoint_every {self.checkpoint_every}s leaves no time to train; give it 1s or more")
        return self

    @model_validator(mode="after")
    def _batch_covers_workers(self) -> Self:
        if self.batch_size < self.max_workers:
            raise ValueError(
                f"batch_size {self.batch_size} is below workers {self.max_workers}; every worker needs a row per step"
            )
        return self


class Tune(Section):
    space: Annotated[dict[str, dict[str, JsonValue]], Field(min_length=1)]
    """Settings of `train` and `model` to search over, each `{log: [a, b]}`, `{uniform: [a, b]}`, `{int: [a, b]}` or
    `{choice: [...]}`, with `when: {other: value}` only where another one has that value."""
    algorithm: Literal["tpe", "random", "pbt"] = "tpe"
    """Tree-structured Parzen estimator, random search, or population based training (settings change on the way)."""
    early_stop: bool = True
    """Stop trials that lag behind the others (ASHA); population based training does so by itself."""
    metric: Literal["accuracy", "loss"] = "accuracy"
    """What the best trial is best at, on the validation split, in its best epoch."""
    latency: bool = False
    """Also look for fast networks: milliseconds of the exported one; `serve.objective` picks among the best."""
    trials: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most trials; by default 16, without a bound where `minutes` is given."""
    minutes: Annotated[float, Field(gt=0.0, le=100_000)] | None = None
    """No trial goes on after so many minutes of searching."""
    target: float | None = None
    """Stop as soon as a trial's metric reaches this."""
    parallel: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Trials at a time; by default as many as three quarters of the cluster's CPUs, no more than it has cores, or its
    GPUs have room for."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Workers of each trial: trials side by side use cores better than workers that wait for each other."""
    refit: Literal["train", "train_and_validation"] = "train"
    """Rows the best settings are trained on in the end; with the validation rows for the best trial's best epoch."""

    @property
    def num_trials(self) -> int | None:
        """None where time alone is the bound."""
        return self.trials if self.trials is not None or self.minutes is not None else 16

    @model_validator(mode="after")
    def _target_is_reachable(self) -> Self:
        if self.target is not None and self.metric == "accuracy" and not 0.0 < self.target <= 1.0:
            raise ValueError(f"target {self.target:g} is no accuracy; give a share above 0 and at most 1")
        return self


class Ladder(Section):
    max_accuracy_loss: Share = 0.01
    """A variant that loses more of the reference's accuracy on the validation split is left out; 0.01 is a point."""
    int8: bool = True
    """Also make 8-bit forms, calibrated on training rows: faster on CPUs with 8-bit instructions."""
    views: bool = False
    """Also rungs that average the network's answers over shifted and mirrored views: more accurate, much slower.

    Only where `train.augment` moves and mirrors images, which says that such an image is still the same.
    """
    student: bool = True
    """Also train the task's smaller networks on the answers of the trained one."""
    student_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Most steps of `train.batch_size` rows that a student is trained for; fewer, but 300, where the training
    has fewer."""


class Objective(Section):
    accuracy_at_least: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """A version whose test accuracy is lower is not deployed (exit code 3); no rung of a ladder below it answers."""
    latency_ms: Annotated[float, Field(gt=0.0)] | None = None
    """Milliseconds from a request's arrival to its answer; cheaper rungs answer, and requests are refused, to hold it.

    Without it only `serve.request_timeout` and the client's own deadline bound a request.
    """
    percentile: Annotated[float, Field(ge=50.0, le=99.99)] = 99.0
    """Share of the requests, in percent, that are to be answered in time."""


class Replicas(Section):
    min: Annotated[int, Field(ge=1, le=1000)] = 1
    max: Annotated[int, Field(ge=1, le=1000)] = 1
    """Above `min`, the adaptation actor chooses between the two by the load."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; raise max or lower min")
        return self


class Record(Section):
    """A sample of what the endpoint is asked and answers, kept on the store: what drift and retraining look at."""

    rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of the requests in the sample; 0 keeps none, 1 lets all feedback find its input."""
    inputs: bool = True
    """Keep the encoded inputs; without them nothing can be learned from feedback."""
    outputs: bool = True
    """Keep what was answered."""
    max_rows: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Of each version, a uniform sample of all its requests."""
    keep: Duration = 30 * 86400.0
    """Older rows are removed."""


class Serve(Section):
    route: Annotated[str, Field(pattern=r"^/[a-z0-9/_-]*$")] = "/"
    """Prefix of the endpoint's paths; experiments that share a cluster need different ones."""
    replicas: Replicas = Replicas()
    objective: Objective = Objective()
    cpus_per_replica: Annotated[float, Field(gt=0.0, le=64.0)] = 0.1
    """CPUs Ray reserves for each replica."""
    gpus_per_replica: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """The GPU, or the share of one, that Ray reserves for each: PyTorch then runs the trained network there."""
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] = 1
    """Threads of one forward pass; more of them pay off for large networks on idle cores."""
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] = 1
    """Forward passes of one replica at once; more than one pays off on idle cores."""
    rungs: Annotated[list[str], Field(min_length=1)] | None = None
    """Variants of the ladder that may answer, by name; all by default."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rows of one forward pass at most."""
    max_wait: Duration = 0.0
    """How long the first row of a batch waits for company; 0 forms batches from what has queued meanwhile."""
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Requests waiting in one replica before it answers 429."""
    request_timeout: Duration = 30.0
    """A request unanswered for this long gets 504."""
    max_body: Size = 4 * 1024**2
    """Larger request bodies get 413 before they are read."""
    max_pixels: Annotated[int, Field(ge=16)] = 16_000_000
    """Images with more pixels are refused before they are decoded."""
    record: Record = Record()


class Adapt(Section):
    enabled: bool = True
    """Watch all replicas and change, inside the bounds of `serve`, what they may choose from and how many they are."""
    tick_ms: Annotated[int, Field(ge=50, le=5000)] = 200
    """Between two looks at all replicas."""
    cooldown: Duration = 1.0
    """Least time between two changes of the same setting of the replicas."""
    dwell: Duration = 5.0
    """How long a setting that was tightened stays so; longer each time that loosening it proved too early."""
    replica_cooldown: Duration = 10.0
    """Least time between two changes of the number of replicas; a new one needs seconds to start."""
    patience: Duration = 60.0
    """How long fewer replicas must have been enough before one is taken away."""
    actions_per_minute: Annotated[int, Field(ge=2, le=600)] = 30
    """Changes of any kind; those that loosen may use half of them."""
    journal: Size = 256 * 1024**2
    """Most that the record of all decisions takes on the disk; the oldest go first."""

    @model_validator(mode="after")
    def _slower_in_this_order(self) -> Self:
        if self.cooldown > self.dwell:
            raise ValueError(f"cooldown {self.cooldown}s is above dwell {self.dwell}s; lower cooldown or raise dwell")
        if self.patience < self.replica_cooldown:
            raise ValueError(
                f"patience {self.patience}s is below replica_cooldown {self.replica_cooldown}s; raise patience"
            )
        if self.journal < 1024**2:
            raise ValueError(f"journal {self.journal}B holds no hour of decisions; give it 1MiB or more")
        return self


class Topic(Section):
    """What belongs to a topic: a text with one of the words, or with the pattern; without both, the likest text."""

    words: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=200)] = []
    """Whole words or phrases; case does not matter."""
    pattern: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A regular expression in RE2's syntax: its time grows with the text alone, whatever the pattern."""
    about: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A description, for texts that no rule takes: the topic whose description is likest, by the text encoder."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.words and self.pattern is None and self.about is None:
            raise ValueError("nothing belongs to this topic; give words, pattern or about")
        return self

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            import re2

            options = re2.Options()
            options.log_errors = False
            try:
                re2.compile(pattern, options)
            except re2.error as error:
                why = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else error
                raise ValueError(f"is no RE2 pattern ({why}); it has no look-around and no back-references") from None
        return pattern


class Alerts(Section):
    """What `trimtab monitor` counts in a stream, and when it says so."""

    negative: Annotated[list[str], Field(min_length=1)] = ["negative"]
    """Labels that are bad news."""
    topics: Annotated[
        dict[Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")], Topic], Field(max_length=64)
    ] = {}
    """By name, in the order in which they are tried; an event that names its topic has that one."""
    similarity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Least cosine between a text and a topic's `about`; below it the topic is `other`."""
    window: Duration = 600.0
    """Events of a topic that are judged together; shorter ones notice sooner and need larger surges."""
    lateness: Duration = 60.0
    """How much older than the newest event one may be and still count."""
    least: Annotated[int, Field(ge=5, le=100_000)] = 20
    """Events that a window must have; with fewer it is joined with the next."""
    learn: Annotated[int, Field(ge=2, le=1000)] = 8
    """Windows of a topic before any is judged."""
    baseline: Annotated[int, Field(ge=4, le=1000)] = 48
    """Windows that a new one is compared with, and of a surge that make it the usual."""
    false_alarms: Annotated[float, Field(ge=1e-9, le=0.1)] = 1e-4
    """Of the windows of a stream that does not change, the share that may be alarms, for each topic and rule."""
    least_rise: Share = 0.05
    """A surge is also at least so much above the usual share: with very many events, less is sure and means nothing."""
    cooldown: Duration = 1800.0
    """After an alert has ended, how long its rule says nothing new of the topic; after a drift, which has no end, from
    the alert on."""
    silence: Duration = 600.0
    """No shorter silence is an alert, whatever the topic's own gaps are."""
    max_topics: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Topics that are told apart; further ones are counted together."""
    hosts: list[str] = []
    """Hosts to which a webhook may go, over HTTPS: hooks.example.com, or with a port. The address itself is in the
    environment variable TRIMTAB_WEBHOOK, the secret that signs it in TRIMTAB_WEBHOOK_SECRET."""
    private_hosts: list[str] = []
    """Hosts in a private network that are allowed as well, also over HTTP, such as 10.0.0.7:8080."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.window < 1.0:
            raise ValueError(f"window {self.window:g}s is too short; give it 1s or more")
        if self.learn > self.baseline:
            raise ValueError(f"learn {self.learn} is above baseline {self.baseline}; lower learn or raise baseline")
        return self


class Schedule(Section):
    """A new training at the times of a cron line."""

    cron: str
    """Minute, hour, day of month, month, day of week: `0 3 * * 1-5`; or @hourly, @daily, @weekly, @monthly."""
    timezone: str = "UTC"
    """In whose clock the line is read, for example Europe/Berlin."""
    overlap: Literal["skip", "queue"] = "skip"
    """What happens when it is due while a retraining still runs: left out, or done after it."""

    @model_validator(mode="after")
    def _fires(self) -> Self:
        from cluster import cron

        cron.check(self.cron, self.timezone)
        return self


class DataTrigger(Section):
    """A new training when files come or change at a path."""

    path: str
    """A file, a folder or a pyarrow.fs URI."""
    every: Annotated[Duration, Field(ge=1.0)] = 60.0
    """Between two looks."""
    settle: Duration = 30.0
    """How long nothing may have changed before it counts: files that are still being written are waited for."""


class FeedbackTrigger(Section):
    """A new training for what came back about answers."""

    labels: Annotated[int, Field(ge=1)] | None = None
    """After so many believed labels that no training has learnt from yet."""
    accuracy_below: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """When the believed labels say that the stable version is less often right than this, beyond chance."""
    every: Annotated[Duration, Field(ge=1.0)] = 30.0
    """Between two looks at the feedback."""

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.labels is None and self.accuracy_below is None:
            raise ValueError("it never fires; give labels or accuracy_below")
        return self


class Triggers(Section):
    """What orders a new training, each by itself; none by default. `trimtab retrain` orders one by hand."""

    schedule: Schedule | None = None
    data: DataTrigger | None = None
    drift: bool = False
    """Drift of the answers, once labels of what drifted confirm that it costs accuracy."""
    feedback: FeedbackTrigger | None = None
    webhook: bool = False
    """`POST .../v2/models/<name>/retrain` with a token whose role is `operate` or more."""


class Labels(Section):
    """Which labels of feedback a training may learn from; the others wait."""

    agreement: Annotated[int, Field(ge=1, le=100)] = 2
    """Clients that must say the same of an answer. One is enough whose token's role is `operate` or more."""
    client_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Of the labels that are counted or learnt, the share that may rest on the word of one client alone; without effect
    on those of `operate`."""
    max_rows: Annotated[int, Field(ge=1, le=10_000_000)] = 50_000
    """The newest ones are taken."""
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Share of them that no training learns from: the gate measures with them."""


class Retrain(Section):
    triggers: Triggers = Triggers()
    labels: Labels = Labels()
    warm_start: bool = True
    """Begin with the weights of the stable version where they fit."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """By default those of `train`."""
    cooldown: Duration = 3600.0
    """Least time between the end of a retraining and the next that a trigger orders; by hand there is none."""
    per_day: Annotated[int, Field(ge=1, le=1000)] = 4
    """Retrainings that triggers may order in 24 hours."""
    most: Annotated[Duration, Field(ge=1.0)] = 7200.0
    """A retraining that takes longer is stopped."""


class Gate(Section):
    """What a retrained version must show before it may answer anybody; all against the stable one, on this machine."""

    max_accuracy_loss: Share = 0.005
    """On the test split, beyond what chance explains."""
    max_recent_loss: Share = 0.0
    """On the held-out labels of feedback, beyond what chance explains; only where there are `least_recent` of them."""
    least_recent: Annotated[int, Field(ge=1)] = 50
    max_class_loss: Share = 0.05
    """Of a label's recall on the test split, beyond what chance explains."""
    max_calibration_loss: Share = 0.05
    """Rise of the expected calibration error on the test split."""
    max_slowdown: Annotated[float, Field(ge=1.0)] = 1.5
    """Times as long for a row or a full batch, with the most accurate rung or any other that both versions have."""
    max_growth: Annotated[float, Field(ge=1.0)] = 2.0
    """Times as many bytes."""


class Rollout(Section):
    """How a version that has passed the gate comes to answer all requests."""

    automatic: bool = True
    """Begin it, and promote, by itself; else `trimtab canary` and `trimtab promote` do. It is taken back by itself
    either way."""
    shadow: Annotated[int, Field(ge=0)] = 200
    """Rows that it answers beside the stable version, unseen by anyone, before it answers the first request."""
    shadow_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Of the requests; fewer under load."""
    steps: Annotated[list[Annotated[float, Field(gt=0.0, lt=1.0)]], Field(min_length=1, max_length=20)] = [
        0.01, 0.05, 0.25, 0.5,
    ]  # fmt: skip
    """Shares of the request ids that it answers, one after the other."""
    least_requests: Annotated[int, Field(ge=1)] = 100
    """Requests that it must have answered at each step before the next."""
    least_time: Duration = 5.0
    """How long each step takes at least."""
    patience: Duration = 86400.0
    """A rollout that takes longer, for want of requests, is taken back."""
    error: Annotated[float, Field(gt=0.0, le=0.2)] = 0.01
    """Chance that a version as good as the stable one is taken back, over the whole rollout."""
    tolerance: Share = 0.02
    """How much worse than the stable version it may be, in answers in time, right and agreeing by labels."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.steps != sorted(set(self.steps)):
            raise ValueError(f"steps {self.steps} do not grow; write each share once, the smallest first")
        return self


class Pod(Section):
    cpus: Annotated[int, Field(ge=1, le=256)] = 2
    memory: Size = 4 * 1024**3
    gpus: Annotated[int, Field(ge=0, le=16)] = 0


class Kubernetes(Section):
    """Where and how large the experiment's pods are; read by `trimtab kubernetes` and `run --kubernetes` alone."""

    image: Annotated[str, Field(pattern=r"^[^\s@]+(:\w[\w.-]{0,127}|@sha256:[0-9a-f]{64})$")] = "trimtab:0.1.0"
    """Image of every pod, with a tag other than `latest` or a digest; `k8s/Dockerfile` makes it."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "trimtab"
    store: str = "/store"
    """Datasets and models: a folder on the volume `claim`, which is mounted there, or a URI such as s3://bucket/trimtab."""
    claim: str | None = "trimtab-store"
    """PersistentVolumeClaim mounted at `store`; null where `store` is a URI."""
    tokens_secret: str = "trimtab-endpoint-tokens"  # noqa: S105
    """Secret whose key `tokens` is the endpoint's token file."""
    ray_token_secret: str = "trimtab-ray-token"  # noqa: S105
    """Secret whose key `auth_token` is Ray's own token."""
    credentials_secret: str | None = None
    """Secret whose keys become environment variables, for an object store or a tracking server."""
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "0 3 * * *"
    """When the training runs again, as cron's five fields in UTC; the CronJob is suspended until someone wants it."""
    serve_pod: Pod = Pod()
    train_pod: Pod = Pod.model_validate({"memory": "8GiB"})

    @model_validator(mode="after")
    def _nothing_is_left_to_chance(self) -> Self:
        if self.image.endswith(":latest"):
            raise ValueError(f"image {self.image} is another one tomorrow; name a version's tag or a digest")
        if ("://" in self.store) == (self.claim is not None):
            raise ValueError(f"store {self.store} with claim {self.claim}; a URI needs claim: null, a folder a claim")
        return self


class Experiment(Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    """Name of the model and the endpoint: lower case letters, digits, hyphens."""
    task: Annotated[str, Field(pattern=r"^([a-z_]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")] = "images"
    """A built-in task, or `my_package.my_module:MyTask`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides split, weights, order and augmentation."""
    data: Data
    model: Model = Model()
    text: Text = Text()
    answers: Answers = Answers()
    recommend: Recommend = Recommend()
    train: Train = Train()
    tune: Tune | None = None
    """Search for better settings before training; without it `train` and `model` are used as they stand."""
    ladder: Ladder = Ladder()
    serve: Serve = Serve()
    adapt: Adapt = Adapt()
    retrain: Retrain = Retrain()
    gate: Gate = Gate()
    rollout: Rollout = Rollout()
    alerts: Alerts = Alerts()
    kubernetes: Kubernetes = Kubernetes()
    settings: dict[str, JsonValue] = {}
    """What a task of your own reads from `self.experiment.settings`."""

    _folder: str = PrivateAttr(default="")

    @property
    def folder(self) -> str:
        """Where the file lies, and a task of one's own beside it; empty for an experiment that came without a file."""
        return self._folder

    def lying_in(self, folder: str) -> Self:
        """The same experiment of a file in `folder`."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    @property
    def default_input(self) -> str:
        """Column of a table that is the input where the experiment names none."""
        return "image" if self.task == "images" else "text"

    @model_validator(mode="after")
    def _task_and_source_go_together(self) -> Self:
        is_ours, kind = ":" not in self.task, self.data.source.kind
        if is_ours and (self.task == "recommend") != (kind == "interactions"):
            needed = "a source of kind interactions" if self.task == "recommend" else "a source of another kind"
            raise ValueError(f"the task {self.task} with the source {kind}; the task needs {needed}")
        return self

    @model_validator(mode="after")
    def _a_gpu_has_something_to_run(self) -> Self:
        if self.task == "recommend" and self.serve.gpus_per_replica:
            raise ValueError(
                "serve.gpus_per_replica with the task recommend, which is served by graphs alone; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _waits_less_than_promised(self) -> Self:
        latency_ms, wait_ms = self.serve.objective.latency_ms, self.serve.max_wait * 1000
        if latency_ms is not None and wait_ms >= latency_ms:
            raise ValueError(
                f"serve.max_wait {wait_ms:g} ms leaves nothing of latency_ms {latency_ms:g}; lower serve.max_wait"
            )
        return self
