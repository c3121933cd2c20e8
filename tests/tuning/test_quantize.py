"""Frozen backbones in 8 and 4 bits: packed as torchao packs them, tuned, saved and loaded like any other."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.matrix import METHODS, fits
from support.onnx_files import run_as_onnx
from torch import nn

import vision_peft as vp
from vision_peft.tuning import record
from vision_peft.tuning.attach import attach_for_loading
from vision_peft.tuning.packed_linear import UNPACKED, QuantizedLinear, quantized_as, quantized_layers, unpack

torchao = pytest.importorskip("torchao.quantization", reason="torchao, of the extra quant, is not installed")

DTYPES = ["int8", "nf4"]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
BARE = [method for method in METHODS if method == type(method)()]


def dense(model: Any) -> Any:
    """A copy of ``model`` in fp32 with the weights that its layers unpack."""
    for name, layer in list(quantized_layers(model).items()):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight = nn.Parameter(layer.weight.clone())
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    return model


@every_dtype
def test_weights_are_packed_as_torchao_packs_them(dtype):
    torch.manual_seed(0)
    model = nn.Sequential()
    model = tiny("vit")
    before = {name: layer.weight.detach().clone() for name, layer in model.named_modules() if type(layer) is nn.Linear}
    vp.quantize_backbone(model, dtype)
    assert quantized_as(model) == dtype
    assert set(quantized_layers(model)) == {name for name in before if name != "head"}
    for name, layer in quantized_layers(model).items():
        weight = before[name]
        if dtype == "int8":
            theirs = torchao.Int8Tensor.from_hp(weight, torchao.PerRow()).dequantize()
        else:
            scales = weight.numel() // 64
            block = next(n for n in range(256, 0, -1) if scales % n == 0)
            theirs = torchao.to_nf4(weight, 64, block).get_original_weight()
        assert torch.equal(layer.weight, theirs), name
        assert (layer.weight - weight).abs().max() <= (0.004 if dtype == "int8" else 0.2) * weight.abs().max()


@every_dtype
def test_the_layer_computes_with_the_unpacked_weight_and_its_gradient_is_that_of_it(dtype):
    model = vp.quantize_backbone(tiny("vit"), dtype)
    layer: Any = model.blocks[0].mlp.fc1
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    assert all(any(t is kept for kept in layer.packed_tensors()) for t in saved)  # no weight is kept in fp32
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(y, expected)
    (ours,) = torch.autograd.grad(y.square().sum(), x)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_under_autocast_it_computes_in_the_type_of_autocast():
    layer: Any = vp.quantize_backbone(tiny("vit")).blocks[0].mlp.fc1
    x = torch.randn(2, layer.in_features, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("method", BARE, ids=lambda method: method.name)
@every_dtype
def test_every_method_tunes_it_as_it_tunes_the_unpacked_weights(method, dtype):
    family = "frames" if "frames" in str([str(need) for need in method.needs]) else "vit"
    assert fits(method, family)
    quantized = vp.quantize_backbone(tiny(family), dtype)
    if UNPACKED in method.needs:
        with pytest.raises(ValueError, match=f"are kept in {dtype} and cannot be trained or changed"):
            vp.attach(quantized, method)
        assert record.find(quantized) is None
        return
    plain = dense(copy.deepcopy(quantized))
    x = images(plain)
    if method.name == "gps":
        with pytest.raises(ValueError, match=f"are kept in {dtype} and cannot be trained or changed"):
            attach_for_loading(quantized, method)
        return
    put_on = vp.attach if method.samples_needed is None else attach_for_loading  # start values from images are drawn
    for model in (quantized, plain):
        torch.manual_seed(0)
        put_on(model, method)
        randomise_tuned(model)
        vp.train_mode(model)
        torch.manual_seed(1)
        model(x).square().sum().backward()
    torch.testing.assert_close(quantized.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)
    ours, theirs = dict(vp.tuned_parameters(quantized)), dict(vp.tuned_parameters(plain))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)
    assert vp.count_parameters(quantized) == vp.count_parameters(plain)


@every_dtype
def test_saved_loaded_detached_copied(dtype, tmp_path):
    bare = vp.quantize_backbone(tiny("vit"), dtype)
    x, expected = images(bare), bare(images(bare))
    keys = list(bare.state_dict())
    model = vp.attach(copy.deepcopy(bare), vp.LoRA(rank=2))
    randomise_tuned(model)
    tuned = model.eval()(x)
    assert torch.equal(copy.deepcopy(model)(x), tuned)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), tuned)
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(vp.quantize_backbone(tiny("vit"), dtype), tmp_path).eval()
    assert torch.equal(loaded(x), tuned)
    with pytest.warns(UserWarning, match=f"trained over weights in {dtype}, those of the model are in floating point"):
        vp.load_adapter(tiny("vit"), tmp_path)  # the fingerprint is that of the weights before they were packed
    with pytest.raises(ValueError, match="other frozen weights"):
        vp.load_adapter(vp.quantize_backbone(tiny("vit", seed=1), dtype), tmp_path)
    with pytest.raises(ValueError, match=f"cannot merge LoRA into weights that are kept in {dtype}"):
        vp.merge(model)
    assert torch.equal(model(x), tuned)
    vp.detach(model)
    model.get_submodule("head").load_state_dict(bare.head.state_dict())
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)


def test_a_loaded_adapter_brings_its_packed_backbone(tmp_path):
    torch.manual_seed(3)
    model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=0)
    vp.quantize_backbone(model)
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "linear", 3)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path, class_names=["a", "b", "c"])
    loaded = vp.load(tmp_path, device="cpu")
    x = torch.randn(2, 3, 32, 32)
    assert quantized_as(loaded) == "int8"
    assert torch.equal(loaded(x), model.eval()(x))


@every_dtype
def test_bytes_of_the_backbone(dtype):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in vp.create_backbone("vit_small_patch16_224").parameters())
    model = vp.quantize_backbone(vp.create_backbone("vit_small_patch16_224"), dtype)
    kept = sum(t.untyped_storage().nbytes() for t in model.state_dict().values())
    assert kept / (4 * parameters) <= (0.28 if dtype == "int8" else 0.17)


def test_compiles_whole():
    model = vp.attach(vp.quantize_backbone(tiny("vit"), "nf4"), vp.LoRA(rank=2))
    x = images(model)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_traces_into_a_program_without_python():
    model = vp.attach(vp.quantize_backbone(tiny("vit")), vp.LoRA(rank=2)).eval()
    x = images(model)
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, x)
        torch.jit.save(traced, file := io.BytesIO())
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(x), model(x))


@every_dtype
def test_packed_weights_are_written_as_onnx(dtype, tmp_path):
    model = vp.quantize_backbone(tiny("vit"), dtype)
    x = images(model)
    torch.testing.assert_close(run_as_onnx(model, x, tmp_path), model(x), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of 'int8', 'nf4'; got 'int4'"):
        vp.quantize_backbone(tiny("vit"), "int4")
    with pytest.raises(ValueError, match="before methods are attached"):
        vp.quantize_backbone(vp.attach(tiny("vit"), vp.LoRA(rank=2)))
    with pytest.raises(ValueError, match="are int8 already"):
        vp.quantize_backbone(vp.quantize_backbone(tiny("vit")), "nf4")


def test_layers_that_do_not_fit_the_blocks_stay(caplog):
    model = tiny("vit")
    model.blocks[0].mlp.fc1 = nn.Linear(32, 33)
    with caplog.at_level("INFO"):
        vp.quantize_backbone(model, "nf4")
    assert not isinstance(model.blocks[0].mlp.fc1, QuantizedLinear)
    assert "1 of 8 linear layers stay in fp32" in caplog.text


def test_without_torchao_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"int8 weights need torchao: pip install 'vision_peft\[quant\]'"):
        vp.quantize_backbone(tiny("vit"))


def test_unpacking_by_hand():
    packed = torch.tensor([[127, -2], [0, 4]], dtype=torch.int8)
    scale = torch.tensor([[0.5], [0.25]])
    assert torch.equal(unpack("int8", (2, 2), packed, scale), torch.tensor([[63.5, -1.0], [0.0, 1.0]]))
