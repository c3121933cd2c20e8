"""Batches in an order that a resumed run repeats, decoded pixels kept in memory."""
