"""Trains a job's student with FSDP2 on CPUs, where accelerate would pass ``fsdp`` over: for test_sharding.py.

Accelerate takes FSDP up on GPUs only, by one condition in ``AcceleratorState``. All else is as it is there:
accelerate's wrapping, torch's ``fully_shard``, the Trainer, gathering and checkpoints, over gloo.
"""

import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from distill.students.train import main
from distill.students.training import trainer, vocabulary_cut

made = AcceleratorState.__init__
step = trainer.DistributionTrainer.training_step


def made_for_fsdp(self: Any, *given: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    """As it is made, and FSDP's where it is asked for."""
    made(self, *given, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def sharded_step(self: Any, model: Any, *given: Any) -> Any:
    """A step of a model that is cut: of every matrix this process has half."""
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor), "not sharded"
    return step(self, model, *given)


AcceleratorState.__init__ = made_for_fsdp
trainer.DistributionTrainer.training_step = sharded_step
trainer.require_shards = lambda options: None
vocabulary_cut._FEWEST_SAVED = 5
sys.exit(main())
