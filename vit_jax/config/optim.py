"""The config section of the optimizer and the learning rate schedule."""

import dataclasses

from vit_jax.settings.fields import Section, field


@dataclasses.dataclass(frozen=True)
class Optim(Section):
    """The optimizer and its learning rate schedule.

    With every optimizer, weight decay is decoupled from the gradient and multiplied by the learning
    rate, as in optax.adamw. `training.optim.weight_decay` converts from other conventions.
    """

    name: str = field("adamw", "optimizer: sgd, adam, adamw, lamb, lion, adafactor, muon")
    learning_rate: float = field(1e-3, "peak learning rate", low=0)
    schedule: str = field("cosine", "decay after the warm-up: cosine, linear, rsqrt, constant")
    warmup_steps: int = field(
        0, "number of linear warm-up steps; set at most one of the three units", low=0
    )
    warmup_epochs: float = field(0.0, "number of linear warm-up epochs", low=0)
    warmup_images: int = field(0, "number of linear warm-up images", low=0)
    warmup_learning_rate: float = field(0.0, "learning rate at the start of the warm-up", low=0)
    cooldown_steps: int = field(
        0,
        "number of linear cool-down steps to 0 at the end; set at most one of the three units",
        low=0,
    )
    cooldown_epochs: float = field(0.0, "number of linear cool-down epochs", low=0)
    cooldown_images: int = field(0, "number of linear cool-down images", low=0)
    end_learning_rate: float = field(
        0.0, "final learning rate of the schedules cosine and linear", low=0
    )
    timescale: int = field(10_000, "timescale of the schedule rsqrt in steps", low=1)
    momentum: float = field(0.9, "momentum of sgd and muon", low=0, below=1)
    b1: float = field(
        0.9, "decay rate of the first moment: adam, adamw, lamb, lion, adafactor", low=0, below=1
    )
    b2: float = field(0.999, "decay rate of the second moment", low=0, below=1)
    eps: float = field(1e-8, "epsilon in the denominator of adam, adamw and lamb", low=0, high=1)
    moment_dtype: str = field("float32", "dtype of the first moment: float32, bfloat16")
    second_moment_dtype: str = field(
        "float32",
        "dtype of the second moment of adam, adamw, lamb, muon: float32, or bfloat16 by stochastic "
        "rounding, which saves 2 bytes a parameter",
    )
    param_dtype: str = field(
        "float32",
        "dtype of the kernels between steps: float32, or bfloat16 by stochastic rounding, which "
        "saves 2 bytes a parameter",
    )
    weight_decay: float = field(
        0.0, "decoupled weight decay, multiplied by the learning rate", low=0
    )
    decay_rules: tuple[tuple[str, float], ...] = field(
        ((".*/kernel", 1.0), (".*", 0.0)),
        "(regex, multiplier of weight_decay); the first that matches the full name applies",
    )
    rate_rules: tuple[tuple[str, float], ...] = field(
        ((".*", 1.0),),
        "(regex, multiplier of learning_rate); the first that matches the full name applies",
    )
    layer_decay: float = field(
        1.0,
        "factor of the learning rate from each layer to the one below it; 1: off",
        low=0,
        high=1,
    )
    clip_norm: float = field(0.0, "maximum global norm of the gradient (clipping); 0: off", low=0)
    accum_steps: int = field(1, "number of micro-batches per step (gradient accumulation)", low=1)
    sam_radius: float = field(0.0, "radius of sharpness-aware minimization; 0: off", low=0)
    tune: str = field("all", "parameters to train: all, or head (linear probe)")
    freeze: tuple[str, ...] = field((), "regexes of the full names of frozen parameters")
    ema_decay: float = field(
        0.0,
        "decay of the exponential moving average (EMA) of the weights, which is evaluated; 0: off",
        low=0,
        below=1,
    )
    ema_warmup: bool = field(
        False, "smaller EMA decay at the start: at most (1 + step) / (10 + step)"
    )
