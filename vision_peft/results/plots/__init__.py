"""Plots of accuracy against what methods cost, made of result rows alone."""
