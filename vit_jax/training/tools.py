"""What a run works with besides its state, from its start to its end."""

import dataclasses

from etils import epath

from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.cluster.preemption import PreemptionGuard
from vit_jax.console.metrics_writer import MetricsWriter
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training.ledger import Ledger
from vit_jax.training.profiler import Profiler


@dataclasses.dataclass(frozen=True)
class Tools:
    """What the loop works with, besides a run and its state."""

    evaluation: Evaluation
    checkpoints: Checkpoints
    writer: MetricsWriter
    stop: PreemptionGuard
    ledger: Ledger
    profiler: Profiler
    report: epath.Path | None  # the directory of the report at the end; None for no report
