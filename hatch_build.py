"""What a wheel takes along as kdbench/shipped. An editable install finds it in the repository (plan/paths.shipped)."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACES = ("Snakefile", "config", "profiles", "workflow", "results/reference", "tables/reference", "CITATION.cff")


class Shipped(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version != "editable":
            build_data["force_include"] |= {place: f"kdbench/shipped/{place}" for place in PLACES}
