"""What setup.cfg cannot say: the top-level folder configs/ is the package data `vision_peft.configs` of the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vision_peft*"]), "vision_peft.configs"],
    package_dir={"vision_peft.configs": "configs"},
    package_data={
        "vision_peft": ["py.typed", "inference/serve/page.html", "results/page/*"],
        "vision_peft.configs": ["**/*.yaml"],
    },
)
