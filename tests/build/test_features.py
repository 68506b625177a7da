"""Whether the project's commands share one build of each dependency.

Cargo builds a dependency anew for each set of its features, and the features follow from the packages
that a command selects: without care `make demo`, `make test` and its steps each build the largest
dependencies for themselves, which takes longer than all tests of a crate.
"""

import pathlib
import subprocess
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WITH_TESTS = "normal,build,dev"
PROGRAMS_ALONE = "normal,build"


def dependencies(edges: str, *selection: str) -> set[str]:
    """Each dependency of a selection of packages, with its features."""
    command = ["cargo", "tree", "--locked", "--edges", edges, "--prefix", "none"]
    listed = subprocess.run(
        [*command, "--format", "{p} [{f}]", *selection],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )
    lines = (line.removesuffix(" (*)") for line in listed.stdout.splitlines())
    return {line for line in lines if str(REPOSITORY) not in line}


class EachDependencyIsBuiltOnce(unittest.TestCase):
    def setUp(self):
        self.all = dependencies(WITH_TESTS, "--workspace")

    def assert_shared(self, others: set[str]):
        self.assertGreater(len(others), 100)
        self.assertEqual(sorted(others - self.all), [])

    def test_by_the_programs_and_by_the_tests(self):
        self.assert_shared(dependencies(PROGRAMS_ALONE, "--workspace"))

    def test_by_the_demo(self):
        programs = ("picket-edge-agent", "picket-aggregator", "picket-tests")
        self.assert_shared(dependencies(PROGRAMS_ALONE, *(f"--package={p}" for p in programs)))

    def test_by_the_tests_of_the_crates_and_by_those_end_to_end(self):
        self.assert_shared(dependencies(WITH_TESTS, "--workspace", "--exclude=picket-tests"))
        self.assert_shared(dependencies(WITH_TESTS, "--package=picket-tests"))


if __name__ == "__main__":
    unittest.main()
