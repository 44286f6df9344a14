"""Reads settings.ini, the one place for name, version, description, requirements and entry points."""

import configparser
import re
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


def page(text, url):
    "README for the package's page: links and pictures of the repository by its address, where it has one."
    if not url: return text
    def absolute(found): return f"{found[1]}({url}/{'raw' if found[1].startswith('!') else 'blob'}/main/{found[2]})"
    return re.sub(r"(!?\[[^]]*\])\((?!https?:|#)([^)]+)\)", absolute, text)


url = cfg["url"].rstrip("/")
project_urls = {"Source": url, "Course": f"{url}/blob/main/nbs/00_index.ipynb", "Changes": f"{url}/blob/main/CHANGELOG.md"} if url else {}

setup(
    cmdclass={"build_py": WithSample},
    name=cfg["name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=page((here / "README.md").read_text(encoding="utf-8"), url),
    url=url or None,
    project_urls=project_urls,
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
