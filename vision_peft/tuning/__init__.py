"""How anything attaches to a timm model: grafts, timm's seams, freezing, counts and tuned state."""
