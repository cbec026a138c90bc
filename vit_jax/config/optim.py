"""The section of the config about the optimizer and its schedule."""

import dataclasses

from vit_jax.settings.fields import Section, field


@dataclasses.dataclass(frozen=True)
class Optim(Section):
    """The optimizer and its schedule.

    Weight decay is decoupled from the gradient and multiplied by the learning rate, as in
    optax.adamw, whatever the optimizer; `optim.weight_decay` translates other conventions.
    """

    name: str = field("adamw", "sgd, adam, adamw, lamb, lion, adafactor, muon")
    learning_rate: float = field(1e-3, "peak learning rate", low=0)
    schedule: str = field("cosine", "decay after the warm-up: cosine, linear, rsqrt, constant")
    warmup_steps: int = field(0, "linear warm-up in steps; set one of the three units", low=0)
    warmup_epochs: float = field(0.0, "linear warm-up in epochs", low=0)
    warmup_images: int = field(0, "linear warm-up in images", low=0)
    warmup_learning_rate: float = field(0.0, "learning rate at step 0 of the warm-up", low=0)
    cooldown_steps: int = field(
        0, "linear cool-down to 0 at the end, in steps; set one of the three units", low=0
    )
    cooldown_epochs: float = field(0.0, "linear cool-down in epochs", low=0)
    cooldown_images: int = field(0, "linear cool-down in images", low=0)
    end_learning_rate: float = field(0.0, "final learning rate of cosine and linear", low=0)
    timescale: int = field(10_000, "timescale of rsqrt in steps", low=1)
    momentum: float = field(0.9, "momentum of sgd and muon", low=0, below=1)
    b1: float = field(
        0.9, "decay of the first moment: adam, adamw, lamb, lion, adafactor", low=0, below=1
    )
    b2: float = field(0.999, "decay of the second moment", low=0, below=1)
    eps: float = field(1e-8, "epsilon in the denominator of adam, adamw and lamb", low=0, high=1)
    moment_dtype: str = field("float32", "dtype of the first moment: float32, bfloat16")
    weight_decay: float = field(0.0, "decoupled weight decay, times the learning rate", low=0)
    decay_rules: tuple[tuple[str, float], ...] = field(
        ((".*/kernel", 1.0), (".*", 0.0)),
        "(regex, multiplier of weight_decay); the first that matches the full parameter name",
    )
    rate_rules: tuple[tuple[str, float], ...] = field(
        ((".*", 1.0),), "(regex, multiplier of learning_rate), likewise"
    )
    layer_decay: float = field(
        1.0, "multiplier of the learning rate from each layer to the one below", low=0, high=1
    )
    clip_norm: float = field(0.0, "clip the global gradient norm; 0: off", low=0)
    accum_steps: int = field(1, "micro-batches per step (gradient accumulation)", low=1)
    sam_radius: float = field(0.0, "radius of sharpness-aware minimization; 0: off", low=0)
    tune: str = field("all", "what trains: all, or head (a linear probe)")
    freeze: tuple[str, ...] = field((), "regexes of parameter names that stay frozen")
    ema_decay: float = field(
        0.0,
        "decay of the moving average of the parameters, which is evaluated; 0: off",
        low=0,
        below=1,
    )
    ema_warmup: bool = field(False, "shorter average at the beginning")
