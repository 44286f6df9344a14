"""Reads settings.ini, the one place for name, version, description, requirements and entry points."""

import configparser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = configparser.ConfigParser(delimiters=("=",))
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


class WithSample(build_py):
    "data/sample stays where the notebooks find it; a wheel has it as cmr/sample, where `cmr demo` does."
    def run(self):
        super().run()
        if not self.editable_mode: self.copy_tree(str(here / "data" / "sample"), str(Path(self.build_lib) / "cmr" / "sample"))


setup(
    cmdclass={"build_py": WithSample},
    name=cfg["name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    license=cfg["license"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["cmr", "cmr.*"]),
    package_data={"cmr": ["weights/*.safetensors", "training/papers.json", "py.typed"]},
    install_requires=cfg["requirements"].split(),
    extras_require={"course": cfg["course_requirements"].split(), "dev": cfg["dev_requirements"].split(),
                    "search": cfg["search_requirements"].split(), "qdrant": cfg["qdrant_requirements"].split(),
                    "photos": cfg["photos_requirements"].split()},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
