"""Measure the input pipeline and updates of a config, or what each method costs.

    vision-peft benchmark data=vtab1k data.root=vtab-1k data.task=dtd
    vision-peft benchmark method=lora --against method=vpt --against "method=lora recipe.recompute=mlp"

It takes the overrides of train. Each --against adds a setting: the same overrides with these on top. The settings are
measured in turn, so ratios to the first one hold even on a noisy machine, where milliseconds do not. Under torchrun the
processes share every batch, and speeds are totals over all of them.

    vision-peft benchmark methods=adaptformer,lora,vpt peers=all backbone=timm backbone.name=vit_small_patch16_224
    vision-peft benchmark methods=all recipe.batch_size=8,64 --against "method=lora method.rank=64" --out costs
    vision-peft benchmark --preset cpu --out costs

With methods= or a preset it reads no data: every method is measured on random images and weights. The table has
training steps, inference before and after merging, operations, bytes saved for the backward pass, and peak memory.
Baselines are a frozen backbone, full fine-tuning by timm's own loop, and plain timm inference. On a CPU, times are CPU
time of one thread, or with --threads 2 wall-clock time, for which the machine must be quiet. peers= adds Hugging Face's
PEFT (hf_lora) and methods as in published code (vpt_inserted, adaptformer_written_out). --out FILE writes FILE.md,
FILE.csv and FILE.json; the same command continues from FILE.json.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from vision_peft.benchmarks.plan import PRESETS, override
from vision_peft.cli._costs import COST_KEYS, report_costs
from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import (
    add_config_dir,
    announce_loading,
    check_output,
    make_parser,
    overrides_of,
    suggest_next,
    write_output,
)
from vision_peft.config.command_line import read_command_line


def main(argv: Sequence[str]) -> int:
    """Measure, print, write the files that were asked for."""
    options = _parse(argv)
    overrides = overrides_of(options)
    further = {text: shlex.split(text) for text in options.against}
    if options.preset or any(word.startswith(COST_KEYS) for word in overrides):
        return report_costs(options, overrides, further)
    if given := [flag for flag in ("rounds", "threads", "minutes", "out") if getattr(options, flag) is not None]:
        raise ValueError(f"--{given[0]} is for the cost table: give methods=... or --preset as well")
    settings = {"": overrides, **{text: override(overrides, words) for text, words in further.items()}}
    runs = {text: read_command_line(words).runs[0] for text, words in settings.items()}
    check_roots(list(runs.values()))
    announce_loading()
    from vision_peft.benchmarks.pipeline_and_updates import (
        check_has_updates,
        format_benchmark,
        measure_pipeline,
        measure_steps,
        to_json,
    )
    from vision_peft.distributed.processes import on_rank0, print_rank0

    config = runs.pop("").parse()
    configs = {f"method={'+'.join(method.name for method in config.methods)} (as given)": config}
    configs |= {text: run.parse() for text, run in runs.items()}
    for each in configs.values():
        check_has_updates(each)
    pipelines = measure_pipeline(config, 5.0 if options.seconds is None else options.seconds)
    steps = measure_steps(configs, 10 if options.updates is None else options.updates)
    print_rank0(format_benchmark(config, pipelines, steps))
    if options.json:
        text = json.dumps(to_json(config, pipelines, steps), indent=2) + "\n"
        on_rank0(lambda: write_output(options.json, text))
    suggest_next(["train", *overrides])
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("benchmark", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train; also methods=, peers=")
    parser.add_argument("--against", action="append", default=[], metavar='"KEY=VALUE ..."', help="another setting")
    parser.add_argument("--updates", type=int, help="updates measured per setting (default: 10)")
    parser.add_argument("--seconds", type=float, help="length of each pipeline measurement (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    costs = parser.add_argument_group("what each method costs (with methods= or a preset)")
    costs.add_argument("--preset", choices=list(PRESETS), help="cpu: many methods on ViT-B/16; gpu: ViT-S, B, L and g")
    costs.add_argument("--rounds", type=int, help="measurements of each setting (default: 7)")
    costs.add_argument("--threads", type=int, help="of a CPU (default: 1); of more, wall-clock time counts")
    costs.add_argument("--minutes", type=float, help="start no round after this; the same command continues")
    costs.add_argument("--out", metavar="FILE", type=Path, help="write FILE.md, FILE.csv and FILE.json")
    add_config_dir(parser)
    options = parser.parse_intermixed_args(argv)
    updates, seconds = (1 if value is None else value for value in (options.updates, options.seconds))
    if options.json:
        check_output("--json", options.json, overwrite=True)
    if updates < 1 or seconds <= 0:
        raise ValueError("--updates must be at least 1 and --seconds above 0")
    return options
