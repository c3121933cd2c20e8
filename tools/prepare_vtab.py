"""`vision-peft prepare-vtab`, started from a clone where TensorFlow is and vision_peft need not be."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "vision_peft/cli/prepare_vtab.py"), run_name="__main__")
