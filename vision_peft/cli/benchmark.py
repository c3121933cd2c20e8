"""Measure the input pipeline and the updates of a config, with other settings in turn.

    vision-peft benchmark data=vtab1k data.root=vtab-1k data.task=dtd
    vision-peft benchmark method=lora --against method=vpt --against "method=lora recipe.recompute=mlp"

Takes the overrides of train. Each --against is one more setting: the same overrides with these on top. Their updates
alternate, so the ratio (to the first setting) is right on a noisy machine too; milliseconds alone are not. Under
torchrun the processes share every batch, and the speeds are those of all of them together.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import (
    add_config_dir,
    announce_loading,
    make_parser,
    overrides_of,
    suggest_next,
    write_output,
)
from vision_peft.config.command_line import read_command_line


def main(argv: Sequence[str]) -> int:
    """Measure, print, write the JSON file that was asked for."""
    parser = make_parser("benchmark", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train")
    parser.add_argument("--against", action="append", default=[], metavar='"KEY=VALUE ..."', help="one more setting")
    parser.add_argument("--updates", type=int, default=10, help="counted updates of each setting (default: 10)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each reading of the pipeline (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    add_config_dir(parser)
    options = parser.parse_intermixed_args(argv)
    if options.updates < 1 or options.seconds <= 0:
        raise ValueError("--updates must be at least 1 and --seconds above 0")
    overrides = overrides_of(options)
    settings = {"": overrides}
    for text in options.against:
        words = shlex.split(text)
        changed = {word.partition("=")[0] for word in words}
        settings[text] = [*(word for word in overrides if word.partition("=")[0] not in changed), *words]
    runs = {text: read_command_line(words).runs[0] for text, words in settings.items()}
    check_roots(list(runs.values()))
    announce_loading()
    from vision_peft.benchmarks.pipeline_and_updates import format_benchmark, measure_pipeline, measure_steps, to_json
    from vision_peft.distributed.processes import on_rank0, print_rank0

    config = runs.pop("").parse()
    configs = {f"method={'+'.join(method.name for method in config.methods)} (as given)": config}
    configs |= {text: run.parse() for text, run in runs.items()}
    pipelines = measure_pipeline(config, options.seconds)
    steps = measure_steps(configs, options.updates)
    print_rank0(format_benchmark(config, pipelines, steps))
    if options.json:
        text = json.dumps(to_json(config, pipelines, steps), indent=2) + "\n"
        on_rank0(lambda: write_output(options.json, text))
    suggest_next(["train", *overrides])
    return 0
