"""What a wheel takes along as kdbench/shipped. An editable install finds it in the repository (plan/paths.shipped)."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Shipped(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable":
            return
        # Of results/reference only the suites: what is measured of kdbench itself lies there too.
        suites = [runs.parent.name for runs in Path(self.root).glob("results/reference/*/runs.csv")]
        places = ["Snakefile", "config", "profiles", "workflow", "tables/reference"]
        places += [f"results/reference/{suite}" for suite in suites]
        build_data["force_include"] |= {place: f"kdbench/shipped/{place}" for place in places}
