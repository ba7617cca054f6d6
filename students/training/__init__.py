"""The inner side of a training: batches, examples on disk, checkpoints, Hugging Face's Trainer."""
