"""Try methods on the transformers of timm by name, and print the table of docs/families.md. It goes on where it was.

    python docs/results/coverage.py                        # all names; results in coverage.jsonl, then the table
    python docs/results/coverage.py --part 2/2             # every second kind of model, beside another process
    python docs/results/coverage.py --modules hiera swin_transformer
    python docs/results/coverage.py --table                # the table of what coverage.jsonl holds

Names are those of ``timm.list_models()`` in ``MODULES``, 586 with timm 1.0.31. Two models are of one kind where they
hold modules of the same classes with the same switches (``describe_kind``). Of every kind one model runs: the smallest,
narrower, shallower and for smaller images where that leaves its kind as it is (``SMALLER``), and else as it is. On it
each of ``METHODS`` is attached, trains one step (every tuned tensor gets a gradient, some of the method move) and comes
off: the same modules of the same classes, and outputs that are the same bit for bit. The largest of every kind takes
and loses each method on the meta device. A method counts for all names of a kind where both went well.
"""

import argparse
import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._registry import _module_to_models
from torch import nn
from torch.overrides import TorchFunctionMode

import vision_peft as vp
from vision_peft.tuning.families import family_of

# What counts as a transformer: timm's modules whose models are ViTs, or attend in most of their stages.
# Left out are hybrids made for phones and networks that mix tokens by other means (MobileViT, FastViT, EfficientFormer,
# MetaFormer, FocalNet, ...): the methods that need no blocks fit them as they fit ConvNeXt.
MODULES = (
    *("vision_transformer", "deit", "eva", "beit", "cait", "xcit", "volo", "pit", "crossvit", "naflexvit", "vitamin"),
    *("vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam"),
    *("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
    *("hiera", "hieradet_sam2", "mvitv2", "maxxvit", "levit", "pvt_v2", "twins", "davit", "coat", "nest", "gcvit"),
    *("tnt", "convit", "visformer", "tiny_vit", "nextvit", "qwen3_vit", "gemma4_vit", "deepseek_vit"),
)
METHODS = {
    "AdaptFormer": vp.AdaptFormer(),
    "LoRA": vp.LoRA(),
    "VPT": vp.VPT(),
    "Houlsby": vp.Houlsby(),
    "SSF": vp.SSF(),
    "BitFit": vp.BitFit(),
}
_FLAT = {"embed_dim": 64, "depth": 2, "num_heads": 2}
_STAGES = {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 2)}
# Module -> what makes a model smaller, the first that leaves its kind; beside it an image size is tried.
SMALLER: dict[str, list[dict[str, Any]]] = {
    "vision_transformer_sam": [{**_FLAT, "window_size": 3, "global_attn_indexes": (1,)}, {"depth": 3}],
    "swin_transformer": [_STAGES],
    "swin_transformer_v2": [_STAGES],
    "swin_transformer_v2_cr": [{**_STAGES, "window_size": 7}, {**_STAGES, "window_size": 8}],
    "hiera": [{"embed_dim": 16, "stages": (1, 1, 2, 1)}],
    "hieradet_sam2": [{"embed_dim": 16, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}],
    "maxxvit": [{"embed_dim": (32, 32, 32, 32), "depths": (1, 1, 1, 1), "stem_width": 8, "head_hidden_size": 32}],
    "cait": [{"depth": 2, "depth_token_only": 1}],
    "xcit": [{"depth": 2}],
}
FLAT = ("vision_transformer", "deit", "eva", "beit", "naflexvit", "vitamin")  # and what begins so
LARGEST = 5e8  # parameters of a model that runs as it is
SIZES = (28, 32, 48, 56, 64, 96, 112, 128, 192, 224, 240, 256, None)


def describe_kind(model: nn.Module) -> str:
    """Return a digest of the classes in ``model`` and, of each, of what is None or True about it."""
    found = set()
    for module in model.modules():
        parts = {**vars(module), **module._parameters, **module._modules}
        switches = sorted(f"{name}={value}" for name, value in parts.items() if value is None or value is True)
        found.add(f"{type(module).__module__}.{type(module).__name__}: {switches}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:12]


class Unfilled(TorchFunctionMode):
    """Leaves out what would fill tensors on the meta device, which takes most of the time there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        filled = args[0] if args else (kwargs or {}).get("tensor")
        fills = getattr(func, "__name__", "") in ("uniform_", "normal_", "erfinv_", "clamp_")
        if fills and isinstance(filled, torch.Tensor) and filled.is_meta:
            return filled
        return func(*args, **(kwargs or {}))


def create_meta(name: str, **arguments: Any) -> nn.Module:
    """Create a model without storage; some of timm's can only be made with it."""
    try:
        with torch.device("meta"), Unfilled():
            return timm.create_model(name, num_classes=10, **arguments)
    except (RuntimeError, NotImplementedError):
        return timm.create_model(name, num_classes=10, **arguments)


def create_smaller(name: str, module: str, kind: str) -> tuple[Any, torch.Tensor]:
    """Create a model of ``kind`` that runs, as small as ``SMALLER`` and ``SIZES`` make it, and two images."""
    usual = [_FLAT, {"depth": 2}] if module.startswith(FLAT) else []
    whole = [{}] if count(create_meta(name)) < LARGEST else []
    for arguments in (*SMALLER.get(module, usual), *whole):
        for size in SIZES:
            sized = {**arguments, **({"img_size": size} if size and module != "hieradet_sam2" else {})}
            try:
                torch.manual_seed(0)
                model: Any = timm.create_model(name, num_classes=10, **sized)
                if describe_kind(model) != kind:
                    break
                model.eval()
                side: int = size or model.pretrained_cfg["input_size"][-1]
                images = torch.randn(2, 3, side, side)
                with torch.no_grad():
                    model(images)
            except Exception:  # timm refuses a size with all kinds of errors
                continue
            _stir(model.train())
            model.eval()  # LeViT keeps the position biases of its last forward in eval mode
            return model, images
    raise RuntimeError(f"no form of {name} runs")


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Move parameters that start near zero (LayerScale, the last norm of a branch), which would stop gradients."""
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:
            parameter.normal_(std=0.1)


def take_form(model: nn.Module) -> list[Any]:
    """Return what has to be the same after ``detach``."""
    modules = [(name, id(module), type(module), sorted(vars(module))) for name, module in model.named_modules()]
    return [modules, list(model.state_dict())]


def run(model: Any, images: torch.Tensor, method: vp.Method) -> str | None:
    """Attach ``method``, train one step and take it off; the reason where something goes wrong."""
    form, state = take_form(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(images)
    try:
        vp.attach(model, method)
    except ValueError as error:
        return str(error)
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(model):
            parameter.add_(0.02 * torch.randn_like(parameter))  # factors that start from zero pass nothing on
    model.train()
    optimiser = torch.optim.SGD([parameter for _, parameter in vp.tuned_parameters(model)], lr=1e-2)
    start = {name: parameter.detach().clone() for name, parameter in vp.tuned_parameters(model)}
    loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    loss.backward()
    optimiser.step()
    heads = tuple(vp.tuned_state_dict(model).keys() & state.keys()) if not isinstance(method, vp.BitFit) else ()
    silent = [name for name, parameter in vp.tuned_parameters(model) if parameter.grad is None]
    moved = [n for n, p in vp.tuned_parameters(model) if n not in heads and not torch.equal(p, start[n])]
    vp.detach(model)
    if take_form(model) != form:
        return "detach left another model"
    model.load_state_dict(state)  # what trained in place: the head, biases
    with torch.no_grad():
        after = model.eval()(images)
    if not torch.isfinite(loss) or silent or not moved:
        return f"one step: loss {loss.item():g}, without a gradient {silent[:3]}, {len(moved)} tensors moved"
    return None if torch.equal(before, after) else "outputs after detach are others"


def attach_only(model: nn.Module, method: vp.Method) -> str | None:
    """Attach ``method`` and take it off; the reason where that goes wrong."""
    form = take_form(model)
    try:
        vp.attach(model, method)
    except ValueError as error:
        return str(error)
    vp.detach(model)
    return None if take_form(model) == form else "detach left another model"


def list_names(modules: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every architecture that ``timm.list_models`` lists."""
    listed = set(timm.list_models())
    return ((module, name) for module in modules for name in sorted(_module_to_models[module] & listed))


def measure(modules: tuple[str, ...], file: Path, part: tuple[int, int]) -> None:
    """Add what is missing to ``file``: a line for every name and one for every kind."""
    known = read(file)
    kinds: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for module, name in list_names(modules):
        if name not in known:
            model = create_meta(name)
            known[name] = {"name": name, "module": module, "kind": describe_kind(model), "size": count(model)}
            _add(file, known[name])
        line = known[name]
        kinds[line["kind"]].append((line["size"], module, name))
    number, of = part
    for place, (kind, members) in enumerate(sorted(kinds.items())):
        if kind in known or place % of != number - 1:
            continue
        (_, module, small), (_, _, large) = min(members), max(members)
        model = create_meta(large)
        family = _guard(lambda model: type(family_of(model)).__name__, model)
        reasons = {key: _guard(attach_only, model, method) for key, method in METHODS.items()}
        try:
            model, images = create_smaller(small, module, kind)
        except RuntimeError as error:
            reasons = dict.fromkeys(METHODS, str(error))
        else:
            reasons = {key: reasons[key] or _guard(run, model, images, METHODS[key]) for key in METHODS}
        _add(file, {"name": kind, "family": family, "ran": small, "attached": large, "reasons": reasons})


def count(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def _guard(trial: Any, *arguments: Any) -> str | None:
    try:
        return trial(*arguments)
    except Exception as error:  # a crash is what this looks for
        return f"{type(error).__name__}: {error}"


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Read the lines of ``file`` by name."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def _add(file: Path, line: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def print_table(modules: tuple[str, ...], file: Path) -> None:
    """Print, by module: names, how many take one method and how many all, kinds, what runs, why others do not."""
    known = read(file)
    rows: dict[str, list[Any]] = {module: [0, 0, 0, set(), set()] for module in modules}
    for module, name in list_names(modules):
        line = known.get(name, {"kind": ""})
        ran = known.get(line["kind"], {"reasons": dict.fromkeys(METHODS, "not run")})
        failed = [key for key in METHODS if ran["reasons"][key] is not None]
        row = rows[module]
        row[0] += 1
        row[1] += len(failed) < len(METHODS)
        row[2] += not failed
        row[3].add(line["kind"])
        row[4] |= set(failed)
    print(f"| timm's module | names | one method | all {len(METHODS)} | kinds | not for every name |")
    print("|---|---:|---:|---:|---:|---|")
    for module, (names, one, every, kinds, failed) in rows.items():
        others = ", ".join(key for key in METHODS if key in failed)
        print(f"| `{module}` | {names} | {one} | {every} | {len(kinds)} | {others} |")
    names, one, every = (sum(row[i] for row in rows.values()) for i in range(3))
    shares = f"{one} ({one / names:.0%}) | {every} ({every / names:.0%})".replace("%", " %")
    print(f"| all | {names} | {shares} | {len(set().union(*(row[3] for row in rows.values())))} | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=sorted(_module_to_models))
    parser.add_argument("--file", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--part", default="1/1", help="N/M: every M-th name and kind from the N-th")
    parser.add_argument("--table", action="store_true", help="print the table only")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not given.table:
        first, last = given.part.split("/")
        measure(tuple(given.modules), given.file, (int(first), int(last)))
    print_table(tuple(given.modules), given.file)
