"""Read and render the recipe for conda-forge, for each platform and Python, and compare it with pyproject.toml.

``check_recipe.py``: needs py-rattler-build. Nothing is built: that takes packages of conda's channels.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import rattler_build
from rattler_build.tool_config import PlatformConfig

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "packaging" / "conda" / "recipe.yaml"
PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def squeezed(requirements: list) -> set[str]:
    """Requirements as pip and conda write them, in one spelling."""
    return {str(one).lower().replace(" ", "") for one in requirements}


def faults(platform: str, project: dict, build_requires: list[str]) -> list[str]:
    """What differs on one platform."""
    variants = rattler_build.VariantConfig.from_yaml(
        f"python: {list(PYTHONS)}\nc_compiler: [gcc]\nc_stdlib: [sysroot]\n".replace("'", '"')
    )
    config = rattler_build.RenderConfig(platform=PlatformConfig(target_platform=platform))
    rendered = rattler_build.Stage0Recipe.from_file(str(RECIPE)).render(variants, config)
    found = [] if len(rendered) == len(PYTHONS) else [f"renders {len(rendered)} variants, not one for each Python"]
    for variant in rendered:
        recipe = variant.recipe.to_dict()
        package, requirements = recipe["package"], recipe["requirements"]
        build = squeezed(build_requires)
        wanted = {
            "name": (package["name"], project["name"]),
            "version": (str(package["version"]), project["version"]),
            "license": (recipe["about"]["license"], project["license"]),
            "what it runs with": (squeezed(requirements["run"]) - {"python"}, squeezed(project["dependencies"])),
            "what it is built with": (squeezed(requirements["host"]) & build, build),
            "OpenMP": ("llvm-openmp" in squeezed(requirements["host"]), platform.startswith("osx")),
        }
        found += [f"{what} must be {there!r}, got {here!r}" for what, (here, there) in wanted.items() if here != there]
    return found


def main() -> int:
    """Print what differs, and how much was looked at."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    differing = 0
    for platform in PLATFORMS:
        for fault in dict.fromkeys(faults(platform, pyproject["project"], pyproject["build-system"]["requires"])):
            differing += 1
            print(f"{RECIPE.relative_to(ROOT)}, {platform}: {fault}")
    print(f"recipe: {len(PLATFORMS)} platforms x {len(PYTHONS)} Pythons rendered, {differing} faults")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
