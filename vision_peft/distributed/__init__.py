"""Processes and devices of one training: joining, agreeing, DDP and FSDP2, stopping on request."""
