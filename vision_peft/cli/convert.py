"""Convert files of official code or HF peft to an adapter folder, or back.

    vision-peft convert checkpoint.pth flowers source=adaptformer num_heads=2
    vision-peft convert PEFT cars source=hf_peft backbone.name=vit_base_patch16_224.augreg_in21k
    vision-peft convert ADAPTER peft target=hf_peft

Sources: adaptformer, vpt, ssf, convpass, fact, repadapter, adapter_plus, dtl, bi_adaptformer, bi_lora, mona, gps,
st_adapter, aim, zeroi2v, videomae, internvideo2, ep, vjepa2, hf_peft.

If a file includes its backbone, the result has backbone.safetensors beside the adapter. What its tensors do not say has
to be given: num_heads=, for some sources img_size= and num_frames=. If it does not, name the backbone it was trained
on: backbone.name= (and backbone.checkpoint=, backbone.img_size=, ...). If a source needs another key (scale=0.1), the
error names it. input.<key>= records how images were prepared: input.mean=[0.5,0.5,0.5] input.resize=shortest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_peft.cli._foreign import list_arguments, read_classes, read_given
from vision_peft.cli._verb import announce_loading, make_parser, suggest_next
from vision_peft.printable import LONGEST_LINE, name_some, printable, show

_SHOWN = 100  # lines of the key map
_OF_ADAPTER = ("name", "checkpoint")  # keys of the backbone that an adapter does not say by itself


def main(argv: Sequence[str]) -> int:
    """Read, write, and show what became of every tensor."""
    parser = make_parser("convert", __doc__)
    parser.add_argument("file", metavar="SOURCE", help="file or folder to read; with target=, an adapter or run")
    parser.add_argument("folder", metavar="TARGET", type=Path, help="folder to write")
    parser.add_argument(
        "given", nargs="*", default=[], metavar="key=value", help="source=, target= and the keys they need"
    )
    parser.add_argument("--classes", metavar="FILE", type=Path, help="class names, one per line, in label order")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_intermixed_args(argv)
    given = read_given(options.given, ("target",))
    if ("source" in given) == ("target" in given):
        raise ValueError("give either source=NAME, whose code wrote SOURCE, or target=hf_peft")
    if not Path(options.file).exists() and not options.file.startswith("hf-hub:"):
        raise FileNotFoundError(f"{options.file}: there is no such file or folder")
    if "target" in given:
        _check_target(given, options.classes)
    names = read_classes(options.classes)
    announce_loading()
    from vision_peft.inference.convert import convert_foreign, convert_to
    from vision_peft.inference.load import load

    if "target" in given:
        backbone = given.get("backbone") or {}
        model = load(options.file, device="cpu", backbone=backbone.get("name"), checkpoint=backbone.get("checkpoint"))
        done = convert_to(model, options.folder, str(given["target"]), overwrite=options.overwrite)
    else:
        arguments = {**list_arguments(given), "class_names": names, "overwrite": options.overwrite}
        done = convert_foreign(options.file, options.folder, str(given["source"]), **arguments)
    lines = done.keys.lines()
    show("tensors of the file -> of the model, numbers as *:" if "source" in given else "tensors of HF peft -> ours:")
    show("\n".join(f"  {printable(line, LONGEST_LINE)}" for line in lines[:_SHOWN]))
    if len(lines) > _SHOWN:
        show(f"  and {len(lines) - _SHOWN:,} more lines")
    dropped = done.keys.dropped
    show(f"dropped: {name_some(dropped, 20)} ({len(dropped):,} tensors)" if dropped else "dropped: none")
    show(f"methods: {', '.join(map(repr, done.methods))}; {done.num_classes} classes")
    for note in done.notes:
        show(f"note: {note}")
    show(f"wrote {', '.join(done.files)} in {printable(done.folder, LONGEST_LINE)}")
    if "source" in given:
        suggest_next(["export", str(done.folder), "-o", f"{done.folder}.pt2"])
    return 0


def _check_target(given: Mapping[str, Any], classes: Path | None) -> None:
    """Raise ValueError for what is of a file of official code: an adapter says that itself."""
    sections = {"backbone": _OF_ADAPTER, "input": ()}
    words = [key for key in given if key not in ("target", *sections)]
    words += [f"{name}.{key}" for name, own in sections.items() for key in given.get(name) or {} if key not in own]
    words += ["--classes"] if classes else []
    if words:
        raise ValueError(
            f"{name_some(words)}: with target= the adapter says this itself, leave it out; backbone.name= and "
            "backbone.checkpoint= say where its weights are"
        )
