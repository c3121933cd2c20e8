"""Rows of finished runs, and the tables and pictures made of them."""
