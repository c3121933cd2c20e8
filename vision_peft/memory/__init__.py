"""How much memory a training takes, before it starts, and the choices that make it fit."""
