"""The words that a config chooses from. Nothing here imports torch, so that a wrong word is answered at once."""

AUGMENTS = ("none", "flip", "random_crop_flip", "crop_flip", "randaugment")  # of training images
MASK_AUGMENTS = ("none", "flip", "random_crop_flip", "crop_flip", "scale_crop_flip")  # of images and their masks
_UNFLIPPED = ("none", "crop", "multi_scale", "randaugment")
CLIP_AUGMENTS = (*_UNFLIPPED, "flip", *(f"{name}_flip" for name in _UNFLIPPED[1:]))  # of training clips
RGB_AUGMENTS = ("randaugment",)  # those that change colours
RESIZES = ("squash", "shortest")
MASK_RESIZES = (*RESIZES, "none")
SAMPLINGS = ("segments", "dense", "seconds")  # of the frames of a clip
CLIP_PLACES = ("random", "middle")  # of the clip of a training video
UNIFORM = "uniform"  # views: clips end to end over a whole video
VIEW_AVERAGES = ("logits", "probabilities")  # of the views of a video
NORMALISATIONS = ("backbone", "bands", "imagenet", "half", "none")
BAD_IN_EVALUATION = ("error", "wrong")  # what becomes of an undecodable image
