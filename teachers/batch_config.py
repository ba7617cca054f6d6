"""The ``batch`` setting of teachers whose provider has batch jobs."""

from __future__ import annotations

from distill.labeling.engine.batch_config import BatchConfig

__all__ = ["BATCH_DESCRIPTION", "BatchConfig", "batch_settings"]

BATCH_DESCRIPTION = (
    "ask through the provider's batch jobs, at half the price and answered within 24 hours; true takes the defaults"
)


def batch_settings(batch: bool | BatchConfig) -> BatchConfig | None:
    """What a teacher's ``batch`` says: how jobs are used, or None where the teacher is asked live."""
    if isinstance(batch, bool):
        return BatchConfig() if batch else None
    return batch
