"""A tuned model of other code says in one line what it holds."""

from support.official_tuned import official_adaptformer

import vision_peft as vp


# L19: not pages of floats
def test_the_repr_is_a_summary():
    foreign = vp.read_foreign(official_adaptformer(), "adaptformer")
    text = repr(foreign)
    assert len(text) < 600
    assert "\n" not in text
    assert text.startswith("Foreign(AdaptFormer(bottleneck=")
    assert "tuned tensors of" in text
    assert "tensor(" not in text
    assert "linear head of 3 classes" in text
    assert "backbone of 2 blocks of width 8" in text
