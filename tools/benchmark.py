"""Measure the data pipeline and training steps of a config, with other settings in turn.

    python tools/benchmark.py data=vtab1k data.root=vtab-1k data.task=dtd
    python tools/benchmark.py method=lora --against method=vpt --against "method=lora recipe.grad_checkpointing=true"

Takes the overrides of tools/train.py. Each --against is one more setting: the same overrides with these on top. Their
updates alternate, so the ratio (to the first setting) stands also on a noisy machine; milliseconds alone do not. Under
torchrun the processes share every batch, and the speeds are those of all of them together.
"""

import argparse
import json
import shlex
from pathlib import Path

from vision_peft.config.command_line import compose_config, one_line_errors
from vision_peft.distributed.processes import on_rank0, print_rank0
from vision_peft.training.benchmark import format_benchmark, measure_pipeline, measure_steps, to_json


def main() -> None:
    """Measure, print, write the JSON file that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for tools/train.py")
    parser.add_argument("--against", action="append", default=[], metavar='"KEY=VALUE ..."', help="one more setting")
    parser.add_argument("--updates", type=int, default=10, help="counted updates of each setting (default: 10)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each reading of the pipeline (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    options = parser.parse_intermixed_args()
    with one_line_errors():
        if options.updates < 1 or options.seconds <= 0:
            raise ValueError("--updates must be at least 1 and --seconds above 0")
        config = compose_config(options.overrides)
        configs = {f"method={'+'.join(method.name for method in config.methods)} (as given)": config}
        for text in options.against:
            words = shlex.split(text)
            changed = {word.partition("=")[0] for word in words}
            kept = [word for word in options.overrides if word.partition("=")[0] not in changed]
            configs[text] = compose_config([*kept, *words])
        pipelines = measure_pipeline(config, options.seconds)
        steps = measure_steps(configs, options.updates)
        print_rank0(format_benchmark(config, pipelines, steps))
        if options.json:
            text = json.dumps(to_json(config, pipelines, steps), indent=2) + "\n"
            on_rank0(lambda: options.json.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
